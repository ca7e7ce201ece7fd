// The answer to a connection that will not be served: written on the bare socket, which then closes.
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { errorBody, errorHeaders, type Problem } from './errors.js'

/** How long a refused client gets to read why. Closing on what it still sends would reset the connection, and lose the answer. */
const LINGER_MS = 1000

/** Never throws; a socket that cannot be written is closed all the same. */
export function refuse(socket: Duplex, problem: Problem, headers: Readonly<Record<string, string>> = {}): void {
  const body = JSON.stringify(errorBody(problem))
  const lines = {
    connection: 'close',
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    ...errorHeaders(problem),
    ...headers,
  }
  const head = Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.on('error', () => undefined)
  if (!socket.writable) {
    socket.destroy()
    return
  }
  socket.end(`HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ''}\r\n${head.join('')}\r\n${body}`)
  socket.resume()
  const timer = setTimeout(() => socket.destroy(), LINGER_MS)
  socket.on('end', () => socket.destroy()).on('close', () => clearTimeout(timer))
}
