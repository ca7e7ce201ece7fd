// Calls that find no memory: prints what each answered, and whether the sessions went on as if they had not been made. Arguments: the demo
// model's folder and a tiny model's. The limit on this process is set from outside, by a shell that waits for numbers.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { native, type SessionHandle } from '../../../src/native.js'
import type { TrainingText } from '../../../src/native-training.js'
import { prefillRequest, SNAPKV, someTokens, specOf } from '../../support/native-calls.js'
import { decode } from '../../support/native-session.js'

const [, , demo = '', tiny = ''] = process.argv
const addon = native()

const shell = spawn('sh', ['-c', 'while read as; do prlimit --pid $PPID --as=$as: && echo done; done'], {
  stdio: ['pipe', 'pipe', 'inherit'],
})
const answers = createInterface(shell.stdout)[Symbol.asyncIterator]()

async function limit(bytes: number | 'unlimited'): Promise<void> {
  shell.stdin.write(`${bytes}\n`)
  await answers.next()
}

/** Runs a call with this much memory left. */
async function within(megabytes: number, call: () => unknown): Promise<string> {
  const size = Number(/^VmSize:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
  await limit(size + megabytes * 2 ** 20)
  try {
    await call()
    return 'done'
  } catch (error) {
    return String((error as { code?: unknown }).code ?? error)
  } finally {
    await limit('unlimited')
  }
}

async function finish(sessions: readonly SessionHandle[]): Promise<number[]> {
  for (;;) {
    const steps = await addon.prefill(sessions)
    if (steps.every((step) => step.result)) return steps.map((step) => step.result!.drafts.root)
  }
}

const models = { demo: await addon.openModel(await specOf(demo)), tiny: await addon.openModel(await specOf(tiny)) }
// Whatever is only made once is made now.
await decode(models.demo, [...someTokens(600)], 4)
await decode(models.tiny, [...someTokens(600)], 4)
const seen: Record<string, unknown> = {}

const first = addon.openSession(models.demo)
const huge = new Int32Array(2 ** 24)
const long = someTokens(16_000)
seen['beginPrefill'] = await within(8, () => addon.beginPrefill(prefillRequest(first, { tokens: long })))
seen['first chunk'] = await within(8, () => addon.prefill([first]))
seen['beginPrefill, copying'] = await within(8, () => addon.beginPrefill(prefillRequest(first, { tokens: huge })))

const requests = [{ compression: null }, { compression: SNAPKV }] as const
const sessions = [...requests, ...requests, ...requests].map(() => addon.openSession(models.tiny))
const begin = (session: SessionHandle, i: number) =>
  addon.beginPrefill(prefillRequest(session, { ...requests[i % 2], tokens: long.subarray(0, 5000) }))
sessions.forEach(begin)
seen['prefill'] = await within(3, () => addon.prefill(sessions))
const roots = await finish(sessions)

const parents = Int32Array.from({ length: 64 }, (_, i) => i - 1)
const request = { tokens: someTokens(64), parents, typical: false }
seen['verify'] = await within(2, () => addon.verify(sessions.map((session) => ({ session, ...request }))))
const posteriors = await addon.verify(sessions.map((session) => ({ session, ...request })))

const { training } = addon
const heads = { medusaHeads: 2, blocks: 1, privateProjection: false }
seen['openTrainer'] = await within(8, () => training.openTrainer(models.demo, { ...heads, medusaHeads: 16 }))
const trainer = await training.openTrainer(models.demo, heads)
const text: TrainingText = { tokens: long, from: 0, hidden: null }
const scales = Float32Array.of(1, 1)
seen['accumulate'] = await within(8, () => training.accumulate(trainer, [text], scales))
seen['score, copying'] = await within(8, () => training.score(trainer, [{ ...text, tokens: huge }]))
const bias = { tensor: '1.block.0.bias', part: 'gradient', first: 0 } as const
const gradient = async () => (await training.read(trainer, bias, 384)).some((value) => value !== 0)
seen['gradients'] = [await gradient()]
await training.accumulate(trainer, [{ ...text, tokens: long.subarray(0, 600) }], scales)
seen['gradients'] = [...(seen['gradients'] as boolean[]), await gradient()]
await training.closeTrainer(trainer)

const spec = await specOf(demo)
seen['openModel, mapping'] = await within(16, () => addon.openModel(spec))
seen['openModel, packing'] = await within(32, () => addon.openModel(spec))
const threads = { ...(await specOf(tiny)), threads: 1024 }
// Threads take what there is, and fewer than were asked for; then nothing is left for the file.
seen['openModel, threads'] = await within(256, () => addon.openModel(threads))

// The same, undisturbed.
const calm = requests.map(() => addon.openSession(models.tiny))
calm.forEach(begin)
const calmRoots = await finish(calm)
seen['roots'] = roots.every((root, i) => root === calmRoots[i % 2])
const calmPosteriors = await addon.verify(calm.map((session) => ({ session, ...request })))
seen['posteriors'] = posteriors.every(
  (posterior, i) => String(posterior.chosen) === String(calmPosteriors[i % 2]!.chosen),
)

shell.stdin.end()
process.stdout.write(JSON.stringify(seen))
