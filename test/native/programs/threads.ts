// The same prompt in three worker threads and on the main one at once; then threads that are terminated at other moments of their calls.
// Argument: a model folder. Prints the tokens of each, how many threads were terminated, and tokens that the main thread makes after that.
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { native } from '../../../src/native.js'
import { specOf } from '../../support/native-calls.js'
import { decode, GREEDY } from '../../support/native-session.js'

const ROUNDS = 10

const dir = process.argv[2]!
const addon = native()
const addonFile = Object.keys(createRequire(import.meta.url).cache).find((file) => file.endsWith('.node'))

async function thread(kind: string): Promise<Worker> {
  const workerData = { addonFile, spec: await specOf(dir), kind, sampling: GREEDY }
  return new Worker(new URL('thread.js', import.meta.url), { workerData, execArgv: [] })
}

async function tokensHere(): Promise<number[]> {
  const model = await addon.openModel(await specOf(dir))
  const { tokens } = await decode(model, [0, 5, 6, 7], 20)
  await addon.close(model)
  return tokens
}

async function tokensInThread(): Promise<number[]> {
  const [tokens] = await once(await thread('once'), 'message')
  return tokens as number[]
}

const tokens = await Promise.all([tokensHere(), tokensInThread(), tokensInThread(), tokensInThread()])
let terminated = 0
for (let round = 0; round < ROUNDS; round++) {
  const ends = ['load', 'work', 'training', 'refused', 'synchronous'].map(async (kind, i) => {
    const worker = await thread(kind)
    await once(worker, 'message')
    await setTimeout(7 * i + round)
    await worker.terminate()
    terminated++
  })
  await Promise.all(ends)
}
process.stdout.write(JSON.stringify({ tokens, terminated, after: await tokensHere() }))
