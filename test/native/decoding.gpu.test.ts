// Decoding on a device where something changes under it: caches and tables that move, recordings that are forgotten, sessions and models
// beside others. Values are compared, not tokens alone: a row has the same bits whatever is around it.
import { once } from 'node:events'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { syntheticSpec } from '../../bench/device/device-model.js'
import { SHAPES } from '../../bench/support/shapes.js'
import { addonFile, type ModelHandle, type ModelSpec, native, type SessionHandle } from '../../src/native.js'
import { describeOnGpu, PROMPT_ROWS, testBackend } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { prefillRequest, prefillTurn, readySession, someTokens, specOf } from '../support/native-calls.js'
import { decode, GREEDY, sampled } from '../support/native-session.js'
import { writeTinyModel } from '../support/tiny-model.js'

const addon = native()
const dir = temporaryFolder()
const LAYERS = 3
/** A random model repeats itself when it is greedy; log-probabilities tell rows apart that choose the same token. */
const SAMPLING = sampled(1, 3n, { logprobs: 0 })

interface Step {
  readonly token: number
  /** Of the token after it. */
  readonly logprob: number
}

/** The next steps of sessions that can verify, all in one batch. */
async function stepsOf(sessions: readonly SessionHandle[], roots: readonly number[], count: number): Promise<Step[][]> {
  const steps: Step[][] = sessions.map(() => [])
  let now = roots
  for (let i = 0; i < count; i++) {
    const posteriors = await addon.verify(
      sessions.map((session, s) => ({
        session,
        tokens: Int32Array.of(now[s]!),
        parents: Int32Array.of(-1),
        typical: false,
      })),
    )
    for (const [s, { logprobs }] of posteriors.entries())
      steps[s]!.push({ token: now[s]!, logprob: logprobs!.chosen[0]! })
    const drafts = await addon.commit(
      sessions.map((session) => ({ session, path: Int32Array.of(0), medusaHeads: 0, topK: 0 })),
    )
    now = drafts.map(({ root }) => root)
  }
  return steps
}

/** What the rows of a chain of tokens behind the root answer. Nothing is committed. */
async function chains(items: readonly { session: SessionHandle; nodes: number }[]) {
  const posteriors = await addon.verify(
    items.map(({ session, nodes }) => ({
      session,
      tokens: someTokens(nodes, 5),
      parents: Int32Array.from({ length: nodes }, (_, i) => i - 1),
      typical: false,
    })),
  )
  return posteriors.map(({ chosen, logprobs }) => ({ chosen: [...chosen], logprobs: [...logprobs!.chosen] }))
}

describeOnGpu('decoding', () => {
  const opened: ModelHandle[] = []
  const open = async (spec: ModelSpec) => {
    const model = await addon.openModel({ ...spec, progress: new Int32Array(new SharedArrayBuffer(8)) })
    opened.push(model)
    return model
  }
  let spec: ModelSpec
  beforeAll(async () => {
    const shape = { layers: LAYERS, hidden: 128, queryHeads: 4, kvHeads: 2, headDim: 64, maxPositions: 8192 }
    await writeTinyModel(join(dir, 'tiny'), { seed: 8, dtype: 'bf16', ...shape })
    spec = await specOf(join(dir, 'tiny'))
  })
  afterAll(() => Promise.all(opened.map((model) => addon.close(model))))

  it('goes on when the cache and the table of angles have to grow', async () => {
    // 256 rows are spare behind a prompt, and the first table has 1024 positions: both end within these steps.
    const prompt = { tokens: someTokens(900), sampling: SAMPLING }
    const growing = await readySession(await open(spec), prompt)
    const grown = await stepsOf([growing.session], [growing.drafts.root], 400)

    // A prompt that is given up in the last chunk of the last layer leaves room in every layer, and a long table.
    const session = addon.openSession(await open(spec))
    addon.beginPrefill(prefillRequest(session, { tokens: someTokens(PROMPT_ROWS + 900, 2) }))
    for (let chunk = 0; chunk < 2 * LAYERS - 1; chunk++) {
      const [step] = await addon.prefill([session])
      expect(step!.result).toBeNull()
    }
    const { drafts } = await prefillTurn(session, prompt)
    expect(await stepsOf([session], [drafts.root], 400)).toEqual(grown)
    await Promise.all([session, growing.session].map((each) => addon.close(each)))
  })

  it('forgets recordings when there are too many, and nothing else', async () => {
    const model = await open(spec)
    const sessions = await Promise.all([
      readySession(model, { sampling: SAMPLING }),
      readySession(model, { sampling: SAMPLING }),
    ])
    const [session, other] = sessions.map((each) => each.session) as [SessionHandle, SessionHandle]
    const [whole] = await chains([{ session, nodes: 64 }])
    const answerTo = (nodes: number) => ({
      chosen: whole!.chosen.slice(0, nodes),
      logprobs: whole!.logprobs.slice(0, nodes),
    })
    // Once as it comes, once recorded, once repeated or forgotten; 64 sizes of a tree, and 16 more of two sessions.
    for (let round = 0; round < 3; round++) {
      for (let nodes = 1; nodes <= 64; nodes++) {
        expect(await chains([{ session, nodes }]), `${nodes} nodes`).toEqual([answerTo(nodes)])
      }
      for (let nodes = 1; nodes <= 16; nodes++) {
        const both = await chains([
          { session, nodes: 64 },
          { session: other, nodes },
        ])
        expect(both, `64 and ${nodes} nodes`).toEqual([whole, answerTo(nodes)])
      }
    }
    await Promise.all([session, other].map((each) => addon.close(each)))
  })

  it('of a long and a short session together is that of each alone', async () => {
    const model = await open(spec)
    const prompts = [5000, 10].map((count, i) => ({ tokens: someTokens(count, i), sampling: SAMPLING }))
    const alone: Step[][] = []
    for (const prompt of prompts) {
      const { session, drafts } = await readySession(model, prompt)
      alone.push(...(await stepsOf([session], [drafts.root], 40)))
      await addon.close(session)
    }
    for (const order of [
      [0, 1],
      [1, 0],
    ]) {
      const ready = []
      for (const i of order) ready.push(await readySession(model, prompts[i]!))
      const sessions = ready.map(({ session }) => session)
      const roots = ready.map(({ drafts }) => drafts.root)
      expect(await stepsOf(sessions, roots, 40)).toEqual(order.map((i) => alone[i]))
      await Promise.all(sessions.map((session) => addon.close(session)))
    }
  })

  it('of two models in two threads is that of each alone', async () => {
    const specs: ModelSpec[] = []
    const expected: number[][] = []
    for (const seed of [1, 2]) {
      await writeTinyModel(join(dir, `thread-${seed}`), { seed, dtype: 'bf16' })
      const own = await specOf(join(dir, `thread-${seed}`))
      specs.push(own)
      expected.push((await decode(await open(own), [0, 5, 6, 7], 20)).tokens)
    }
    expect(expected[0]).not.toEqual(expected[1])
    const found = await Promise.all(
      specs.map(async (own) => {
        const workerData = { addonFile: addonFile(), spec: own, kind: 'once', sampling: GREEDY }
        const worker = new Worker(new URL('programs/thread.js', import.meta.url), { workerData, execArgv: [] })
        const [tokens] = (await once(worker, 'message')) as [number[]]
        await worker.terminate()
        return tokens
      }),
    )
    expect(found).toEqual(expected)
  })

  it.each(['full', 'int8'] as const)('runs synthetic weights, the same for the same seed: %s', async (weights) => {
    const { backend, isa } = testBackend
    const made = syntheticSpec({ backend, isa, weights, shape: SHAPES.demo, medusaHeads: 3 })
    const { vocab } = SHAPES.demo
    const run = async (own: ModelSpec) => {
      const request = { tokens: someTokens(300), sampling: SAMPLING, medusaHeads: 3, topK: 5 }
      const { session, drafts } = await readySession(await open(own), request)
      expect(drafts.tokens).toHaveLength(15)
      expect(drafts.tokens.every((id) => id >= 0 && id < vocab)).toBe(true)
      const [steps] = await stepsOf([session], [drafts.root], 10)
      await addon.close(session)
      return { drafts: [...drafts.tokens], steps: steps! }
    }
    const first = await run(made)
    // Neither zeros, which would make every token as likely as any other, nor values past all bounds.
    const even = -Math.log(vocab)
    for (const { logprob } of first.steps)
      expect(logprob).toSatisfy((value: number) => value < 0 && Number.isFinite(value))
    expect(first.steps.some(({ logprob }) => Math.abs(logprob - even) > 0.01)).toBe(true)
    expect(await run(made)).toEqual(first)
    expect((await run({ ...made, synthetic: { seed: 2 } })).steps).not.toEqual(first.steps)
    const apart = await run({ ...made, heads: { ...made.heads!, sharedProjection: false } })
    expect(apart.steps).toEqual(first.steps)
    expect(apart.drafts).not.toEqual(first.drafts)
  })
})
