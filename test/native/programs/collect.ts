// Drops handles without closing them and prints what the garbage collector made of it. Argument: a model folder. Needs --expose-gc.
import { readdirSync, readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { native } from '../../../src/native.js'
import { specOf } from '../../support/native-calls.js'
import { GREEDY } from '../../support/native-session.js'

const dir = process.argv[2]!
const addon = native()
const isAlive = () => readFileSync('/proc/self/maps', 'utf8').includes(`${dir}/model.safetensors`)
const threads = () => readdirSync('/proc/self/task').length

async function collect(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    globalThis.gc!()
    await setImmediate()
  }
}

function begin(session: ReturnType<typeof addon.openSession>): void {
  const tokens = Int32Array.from({ length: 512 }, (_, i) => i)
  addon.beginPrefill({ session, tokens, sampling: GREEDY, compression: null, medusaHeads: 0, topK: 0 })
}

/** Handles that nothing refers to when it returns, but for the session. */
async function openAndDropModel() {
  const model = await addon.openModel(await specOf(dir))
  for (let i = 0; i < 20; i++) begin(addon.openSession(model))
  return addon.openSession(model)
}

/** A call whose session nothing refers to. */
function callAndDrop(session: ReturnType<typeof addon.openSession>): Promise<unknown> {
  begin(session)
  return addon.prefill([session])
}

async function main() {
  // What node's own worker pool starts stays.
  await addon.openModel(await specOf(dir)).then(addon.close)
  const threadsBefore = threads()
  let session: ReturnType<typeof addon.openSession> | null = await openAndDropModel()
  await collect()
  const aliveWithSession = isAlive()
  const running = callAndDrop(session)
  session = null
  await collect()
  const aliveInCall = isAlive()
  const answered = Array.isArray(await running)
  await collect()
  return {
    answered,
    aliveWithSession,
    aliveInCall: aliveInCall || answered,
    aliveAfterwards: isAlive(),
    threadsLeft: threads() - threadsBefore,
  }
}

process.stdout.write(JSON.stringify(await main()))
