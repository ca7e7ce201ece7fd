// The body of the encoding thread: builds an encoder once, then answers one message per text.
import { parentPort, workerData } from 'node:worker_threads'
import { openEncoder } from './encoder.js'

/**
 * @typedef {{ readonly text: string, readonly addSpecial: boolean }} EncodeRequest
 * @typedef {{ readonly ids: Int32Array } | { readonly error: string }} EncodeReply
 */

if (parentPort === null) throw new Error('encode-worker.js is the body of a worker thread; load it with new Worker()')
const port = parentPort
/** @type {{ readonly tokenizerJson: string }} */
const { tokenizerJson } = workerData
const encoder = openEncoder(tokenizerJson)

port.on('message', (/** @type {EncodeRequest} */ request) => {
  /** @type {EncodeReply} */
  let reply
  try {
    reply = { ids: encoder.encode(request.text, request.addSpecial) }
  } catch (error) {
    reply = { error: error instanceof Error ? error.message : String(error) }
  }
  port.postMessage(reply, 'ids' in reply ? [/** @type {ArrayBuffer} */ (reply.ids.buffer)] : [])
})
