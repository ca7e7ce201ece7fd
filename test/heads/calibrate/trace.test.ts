// Texts of a model, and the ranks of their tokens: those of plain decoding, whoever runs beside it.
import { afterEach, describe, expect, test } from 'vitest'
import { MISSED, rankText, type TraceOptions, traceTexts, UNSEEN } from '../../../heads/calibrate/trace.js'
import { parseLoadOptions } from '../../../src/options.js'
import { FakeNative, nativeError, type ToyOptions } from '../../support/fake-native.js'
import { TOY_VOCAB } from '../../support/toy-engine.js'

const opened: FakeNative[] = []
afterEach(() => {
  for (const native of opened.splice(0)) {
    expect(native.breaches).toEqual([])
    expect(native.openSessions).toBe(0)
  }
})

function toy(options: ToyOptions = {}, eosIds: readonly number[] = []) {
  const native = new FakeNative({ medusaHeads: 3, ...options })
  opened.push(native)
  return { native, model: native.openToyModel(), vocab: TOY_VOCAB, medusaHeads: 3, eosIds }
}

const { kv } = parseLoadOptions({ model: 'toy', kv: { policy: 'full' } })
const options = (given: Partial<TraceOptions> = {}): TraceOptions => ({
  tokens: 40,
  kv,
  batch: 4,
  signal: new AbortController().signal,
  ...given,
})
const textsAt = (temperature: number) =>
  Array.from({ length: 9 }, (_, i) => ({ prompt: Int32Array.of(1, 2, i + 3), temperature, seed: BigInt(i + 1) }))
const TEXTS = textsAt(0)

describe('rankText', () => {
  test('looks for each token among the drafts that stood for it', () => {
    const drafted = [Int32Array.of(11, 90, 91, 12), Int32Array.of(92, 12, 93, 94), Int32Array.of(13, 95, 96, 97)]
    const trace = rankText([10, 11, 12, 13], drafted, { medusaHeads: 2, topK: 2 })
    // Head 0 at position 0 stands for token 1, head 1 for token 2; at position 2 head 1 stands for a token that never came.
    expect([...trace.ranks]).toEqual([0, 1, 1, MISSED, 0, UNSEEN])
    expect(trace).toMatchObject({ positions: 3, medusaHeads: 2 })
  })

  test('of drafts alike takes the first', () => {
    expect([...rankText([1, 5, 2], [Int32Array.of(5, 5, 5)], { medusaHeads: 1, topK: 3 }).ranks]).toEqual([0])
  })
})

describe('traceTexts', () => {
  test('the texts are those of plain decoding, and every rank is judged', async () => {
    const base = toy({ headAccuracy: 1 })
    const traces = await traceTexts(base, TEXTS, options())
    expect(traces).toHaveLength(TEXTS.length)
    for (const trace of traces) {
      expect(trace.positions).toBe(40)
      // The toy's good heads hold the right token at rank 0, 1 or 2.
      expect(new Set(trace.ranks)).toEqual(new Set([0, 1, 2]))
    }
    for (const [i, { prompt }] of TEXTS.entries()) {
      const made = base.native.committed(i + 1).slice(prompt.length)
      expect(made).toEqual(base.native.continuation([...prompt], made.length))
    }
  })

  test('are the same however many are made at once', async () => {
    for (const temperature of [0, 0.7]) {
      const alone = await traceTexts(toy(), textsAt(temperature), options({ batch: 1 }))
      const together = await traceTexts(toy(), textsAt(temperature), options({ batch: 16 }))
      expect(together).toEqual(alone)
    }
  })

  test('end where the model ends them, before a step with nothing to follow', async () => {
    const base = toy({ stopId: 96, stopEvery: 12, headAccuracy: 1 }, [96])
    const traces = await traceTexts(base, TEXTS, options({ tokens: 200 }))
    expect(traces.map(({ isEnded }) => isEnded)).toEqual(traces.map(({ positions }) => positions < 200))
    const { positions, ranks } = traces.toSorted((a, b) => a.positions - b.positions)[0]!
    expect(positions).toBeGreaterThan(0)
    expect(positions).toBeLessThan(200)
    // Of the last step's heads one stands for the end, and the others for what never came.
    expect([...ranks.slice(-2)]).toEqual([UNSEEN, UNSEEN])
    expect(ranks.at(-3)).toBeGreaterThanOrEqual(0)
  })

  test('compress a prompt that is over the budget', async () => {
    const base = toy()
    const small = parseLoadOptions({ model: 'toy', kv: { policy: 'snapkv', budget: 16, window: 4 } }).kv
    const prompt = Int32Array.from({ length: 40 }, (_, i) => i)
    await traceTexts(base, [{ prompt, temperature: 0, seed: 0n }], options({ kv: small }))
    expect(base.native.turns[0]!.compression).toMatchObject({ policy: 'snapkv', budget: 16, window: 4 })
  })

  test('stop when told to, and leave nothing open', async () => {
    const controller = new AbortController()
    const onStep = (steps: number) => {
      if (steps === 20) controller.abort(new Error('enough'))
    }
    await expect(traceTexts(toy(), TEXTS, options({ signal: controller.signal, onStep }))).rejects.toThrow('enough')
  })

  test('fail together, with the first failure', async () => {
    const base = toy()
    let calls = 0
    base.native.onCall = ({ phase }) => {
      if (phase === 'commit' && ++calls > 10) throw nativeError('ERR_OUT_OF_MEMORY', 'no memory for another row')
    }
    await expect(traceTexts(base, TEXTS, options())).rejects.toThrow('no memory for another row')
  })

  test('of no prompts are none', async () => {
    expect(await traceTexts(toy(), [], options())).toEqual([])
  })
})
