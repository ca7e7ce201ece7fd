// The operations put together: whole tiny models against the oracle's composition of theirs, layer by layer, step by step.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type CompressionSpec,
  type Drafts,
  type ModelHandle,
  native,
  type Posterior,
  type PrefillRequest,
  type SessionHandle,
} from '../../src/native.js'
import type { AttentionCase } from '../oracle/attention.js'
import { type MedusaHead, medusaHead } from '../oracle/medusa-heads.js'
import {
  causal,
  forward,
  logits,
  logSoftmax,
  type OracleForward,
  type OracleModel,
  type OracleRow,
  type OracleWeight,
  treeBehind,
} from '../oracle/model.js'
import { bestRows, poolScores, reduceGroup, votes } from '../oracle/snapkv.js'
import { randomTree } from '../support/attention.js'
import { isCpu } from '../support/backend.js'
import { EPSILON, expectClose, expectSameBits, tolerance } from '../support/compare.js'
import { forwardLogits, forwardVotes, GREEDY, openModel } from '../support/native-session.js'
import { fastestIsa, isas } from '../support/ops.js'
import { Random } from '../support/random.js'
import {
  type TinyDtype,
  type TinyHeads,
  type TinyModel,
  type TinyModelOptions,
  writeTinyHeads,
  writeTinyModel,
} from '../support/tiny-model.js'

// Small enough that log-probabilities of all ids can be asked for.
const VOCAB = 64
const SIZE = { layers: 2, hidden: 48, ffn: 72, vocab: VOCAB, queryHeads: 4, kvHeads: 2, headDim: 16, seed: 3 }
const THETA = 10000

const MODELS: Record<string, TinyModelOptions> = {
  'llama with biases': { ...SIZE, architecture: 'llama', attentionBias: true, mlpBias: true },
  'llama, multi-query, wide heads': { ...SIZE, architecture: 'llama', kvHeads: 1, headDim: 40 },
  'mistral with a window of 9': { ...SIZE, architecture: 'mistral', slidingWindow: 9 },
  'qwen2, tied': { ...SIZE, architecture: 'qwen2', tied: true },
  'qwen3 with head norms': { ...SIZE, architecture: 'qwen3', queryHeads: 6 },
}

let folder: string
const opened: ModelHandle[] = []
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gorgon-model-'))
})
afterAll(async () => {
  await Promise.all(opened.map((model) => native().close(model)))
  await rm(folder, { recursive: true })
})

/** The same weights for the oracle. */
function oracleOf(tiny: TinyModel, window: number): OracleModel {
  const values = (name: string) => tiny.tensors.get(name)?.values ?? null
  const weight = (name: string): OracleWeight => ({ w: values(`${name}.weight`)!, bias: values(`${name}.bias`) })
  return {
    hidden: tiny.hidden,
    queryHeads: tiny.queryHeads,
    kvHeads: tiny.kvHeads,
    headDim: tiny.headDim,
    rmsEps: 1e-6,
    frequencies: Array.from({ length: tiny.headDim / 2 }, (_, i) => Math.fround(THETA ** ((-2 * i) / tiny.headDim))),
    embed: values('model.embed_tokens.weight')!,
    layers: Array.from({ length: tiny.layers }, (_, layer) => {
      const at = `model.layers.${layer}`
      return {
        attnNorm: values(`${at}.input_layernorm.weight`)!,
        q: weight(`${at}.self_attn.q_proj`),
        k: weight(`${at}.self_attn.k_proj`),
        v: weight(`${at}.self_attn.v_proj`),
        o: weight(`${at}.self_attn.o_proj`),
        qNorm: values(`${at}.self_attn.q_norm.weight`),
        kNorm: values(`${at}.self_attn.k_norm.weight`),
        ffnNorm: values(`${at}.post_attention_layernorm.weight`)!,
        gate: weight(`${at}.mlp.gate_proj`),
        up: weight(`${at}.mlp.up_proj`),
        down: weight(`${at}.mlp.down_proj`),
        window,
      }
    }),
    finalNorm: values('model.norm.weight')!,
    lmHead: values('lm_head.weight') ?? values('model.embed_tokens.weight')!,
  }
}

/** Medusa heads of layout A for the oracle. */
function oracleHeads(heads: TinyHeads): MedusaHead[] {
  const values = (name: string) => heads.tensors.get(name)!.values
  return Array.from({ length: heads.medusaHeads }, (_, head) => ({
    blocks: Array.from({ length: heads.blocks }, (_, block) => values(`${head}.${block}.linear.weight`)),
    biases: Array.from({ length: heads.blocks }, (_, block) => values(`${head}.${block}.linear.bias`)),
    projection: values(`${head}.${heads.blocks}.weight`),
  }))
}

interface Pair {
  tiny: TinyModel
  oracle: OracleModel
  open(options: { isa?: string; heads?: string; dtype?: TinyDtype; threads?: number }): Promise<ModelHandle>
}

async function pairOf(name: string, dtype: TinyDtype): Promise<Pair> {
  const options = MODELS[name]!
  const dir = join(folder, `${name}-${dtype}`)
  const tiny = await writeTinyModel(dir, { ...options, dtype })
  return {
    tiny,
    oracle: oracleOf(tiny, options.slidingWindow ?? 0),
    open: async (given) => {
      const model = await openModel(dir, given)
      opened.push(model)
      return model
    },
  }
}

/** How far logits may be from the oracle's after all layers. */
function logitTolerance({ tiny }: Pair, dtype: TinyDtype, rows: number, values: readonly number[]): number {
  const { layers, hidden, ffn, headDim } = tiny
  const magnitude = Math.max(...values.map(Math.abs))
  const rounded = tolerance({
    epsilon: EPSILON.f32,
    reduction: layers * (hidden + ffn + headDim + rows),
    magnitude,
    factor: 1,
  })
  // bf16, and on a device f16, rounds every activation (8 a layer); f16 on the CPU the rows of the cache (2 a layer).
  const roundings = { f32: 0, f16: (isCpu ? 2 : 8) * layers, bf16: 8 * layers }[dtype]
  return rounded + tolerance({ epsilon: EPSILON[dtype], reduction: roundings, magnitude, factor: 0.5 })
}

const textOf = (random: Random, count: number): number[] =>
  Array.from({ length: count }, () => random.integer(0, VOCAB - 1))

const rowsOf = (tokens: readonly number[]): OracleRow[] => tokens.map((token, position) => ({ token, position }))

describe('a text through the whole model', () => {
  for (const name of Object.keys(MODELS)) {
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      it(`${name}, ${dtype}: the oracle's logits in any chunks, on the CPU the same bits in all of them and on every instruction set`, async () => {
        const random = new Random(`model ${name} ${dtype}`)
        const tokens = textOf(random, 75)
        const pair = await pairOf(name, dtype)
        const expected = logits(pair.oracle, forward(pair.oracle, rowsOf(tokens), causal).hidden)
        const place = { random, axes: { t: tokens.length, id: VOCAB } }
        let reference: Float32Array | null = null
        for (const isa of isas) {
          const model = await pair.open({ isa, threads: isa === fastestIsa ? 2 : 1 })
          for (const chunk of [512, 7, 33]) {
            const got = forwardLogits(model, tokens, chunk)
            const what = `${isa}, chunks of ${chunk}`
            if (reference !== null && isCpu) {
              expectSameBits(got, reference, { ...place, what })
              continue
            }
            reference = got
            expectClose(got, expected, logitTolerance(pair, dtype, tokens.length, expected), { ...place, what })
          }
        }
      })
    }
  }
})

/** The queries of tokens [first, end) of a whole text's case, with the keys they may see. */
function rangeOf(c: AttentionCase, first: number, end: number): AttentionCase {
  const width = c.queryHeads * c.headDim
  const k = Array.from({ length: c.kvHeads }, (_, head) =>
    Array.from(c.k).slice(head * c.tokens * c.headDim, (head * c.tokens + end) * c.headDim),
  ).flat()
  const q = Array.from(c.q).slice(first * width, end * width)
  return { ...c, q, k, rows: first, tokens: end - first, position: first }
}

describe('the attention a text pays to itself', () => {
  const RANGES: [number, number][] = [
    [0, 1],
    [74, 75],
    [40, 41],
    [59, 75],
    [0, 75],
    [40, 59],
  ]
  for (const name of Object.keys(MODELS)) {
    it(`${name}: the oracle's, of single tokens and of ranges, in any chunks`, async () => {
      const random = new Random(`model votes ${name}`)
      const tokens = textOf(random, 75)
      const pair = await pairOf(name, 'f32')
      const model = await pair.open({})
      const { layers, queryHeads, hidden, ffn, headDim } = pair.tiny
      const axes = { layer: layers, range: RANGES.length, head: queryHeads, row: tokens.length }
      const got = forwardVotes(model, tokens, RANGES)
      const { attention } = forward(pair.oracle, rowsOf(tokens), causal)
      const expected = attention.flatMap((c) =>
        RANGES.flatMap(([first, end]) => votes(rangeOf(c, first, end), tokens.length)),
      )
      const reduction = layers * (hidden + ffn + headDim + tokens.length)
      // A share is at most 1; a range adds as many as it has tokens.
      const allowed = tolerance({ epsilon: EPSILON.f32, reduction, magnitude: tokens.length, factor: 1 })
      expectClose(got, expected, allowed, { random, axes })
      for (const chunk of [7, 33]) {
        const cut = forwardVotes(model, tokens, RANGES, chunk)
        if (isCpu) expectSameBits(cut, got, { random, axes, what: `chunks of ${chunk}` })
        else expectClose(cut, expected, allowed, { random, axes, what: `chunks of ${chunk}` })
      }
    })
  }

  it('ranges outside of a text are refused', async () => {
    const model = await (await pairOf('qwen2, tied', 'f32')).open({})
    const over = (tokens: number[], ranges: [number, number][]) => () => forwardVotes(model, tokens, ranges)
    expect(over([1, 2, 3, 4], [[0, 4]])).not.toThrow()
    expect(over([1, 2, 3, 4], [[-1, 1]])).toThrow(/range/)
    expect(over([1, 2, 3, 4], [[2, 2]])).toThrow(/range/)
    expect(over([1, 2, 3, 4], [[3, 2]])).toThrow(/range/)
    expect(over([1, 2, 3, 4], [[0, 5]])).toThrow(/range/)
    expect(over([1, 2, 3, 4], [])).toThrow(/ranges/)
    expect(over([], [[0, 1]])).toThrow(/tokens/)
  })
})

const NO_COMPRESSION = { compression: null, medusaHeads: 0, topK: 1 }
const WITH_LOGPROBS = { ...GREEDY, logprobs: VOCAB }

async function prefill(request: PrefillRequest) {
  native().beginPrefill(request)
  for (;;) {
    const [step] = await native().prefill([request.session])
    if (step!.result) return step!.result
  }
}

/** [V] by id, of the list of all ids that log-probabilities come as. */
function byId(topIds: Int32Array, topValues: Float32Array, row = 0): number[] {
  const out = new Array<number>(VOCAB)
  for (let i = 0; i < VOCAB; i++) out[topIds[row * VOCAB + i]!] = topValues[row * VOCAB + i]!
  return out
}

interface Tree {
  tokens: Int32Array
  parents: Int32Array
  depths: Int32Array
}

function treeOf(random: Random, nodes: number, root: number): Tree {
  const { parents, depths } = randomTree(random, nodes, 5)
  return {
    parents,
    depths,
    tokens: Int32Array.from(parents, (_, node) => (node === 0 ? root : random.integer(0, VOCAB - 1))),
  }
}

async function verify(session: SessionHandle, { tokens, parents }: Tree): Promise<Posterior> {
  const [posterior] = await native().verify([{ session, tokens, parents, typical: true }])
  return posterior!
}

/** Every node's whole distribution, the entropy and the drafted tokens' probabilities against hidden rows of the oracle. */
function expectPosterior(pair: Pair, got: Posterior, tree: Tree, hidden: number[], rows: number, random: Random): void {
  const nodes = tree.tokens.length
  const values = logits(pair.oracle, hidden)
  const distributions = tree.parents.reduce<number[][]>((all, _, node) => {
    all.push(logSoftmax(values.slice(node * VOCAB, (node + 1) * VOCAB)))
    return all
  }, [])
  const allowed = 2 * logitTolerance(pair, 'f32', rows, values)
  const { topIds, topValues } = got.logprobs!
  const actual = Array.from({ length: nodes }, (_, node) => byId(topIds, topValues, node)).flat()
  expectClose(actual, distributions.flat(), allowed, { random, axes: { node: nodes, id: VOCAB }, what: 'ln p' })
  const chosenAt = Array.from(got.chosen, (id, node) => distributions[node]![id]!)
  const bests = distributions.map((row) => Math.max(...row))
  expectClose(chosenAt, bests, allowed, { random, axes: { node: nodes }, what: 'ln p of the chosen' })
  const entropies = distributions.map((row) => -row.reduce((sum, lp) => sum + Math.exp(lp) * lp, 0))
  expectClose(got.entropy, entropies, allowed * 8, { random, axes: { node: nodes }, what: 'entropy' })
  const drafted = Array.from(tree.tokens, (token, node) =>
    node === 0 ? 1 : Math.exp(distributions[tree.parents[node]!]![token]!),
  )
  expectClose(got.tokenProb, drafted, allowed, { random, axes: { node: nodes }, what: 'probability of the token' })
}

describe('a step through the whole model', () => {
  for (const name of Object.keys(MODELS)) {
    it(`${name}: every node of a tree sees the text and its ancestors`, async () => {
      const pair = await pairOf(name, 'f32')
      for (const count of [1, 30, 126]) {
        const random = new Random(`model tree ${name} ${count}`)
        const tokens = textOf(random, count)
        const session = native().openSession(await pair.open({}))
        const { drafts } = await prefill({
          session,
          tokens: Int32Array.from(tokens),
          sampling: WITH_LOGPROBS,
          ...NO_COMPRESSION,
        })
        const tree = treeOf(random, 25, drafts.root)
        const posterior = await verify(session, tree)
        const rows = [
          ...rowsOf(tokens),
          ...Array.from(tree.tokens, (token, node) => ({ token, position: count + tree.depths[node]! })),
        ]
        const whole = Array.from({ length: count }, (_, row) => row)
        const { hidden } = forward(
          pair.oracle,
          rows,
          treeBehind(count, tree.parents, () => whole),
        )
        expectPosterior(pair, posterior, tree, hidden.slice(count * pair.oracle.hidden), rows.length, random)
        await native().close(session)
      }
    })
  }

  it('a committed path is text: the next tree sees it, and nothing of the other branches', async () => {
    const pair = await pairOf('llama with biases', 'f32')
    const random = new Random('model commit')
    const session = native().openSession(await pair.open({}))
    const text = textOf(random, 29)
    const request = { session, tokens: Int32Array.from(text), sampling: WITH_LOGPROBS, ...NO_COMPRESSION }
    let drafts: Drafts = (await prefill(request)).drafts
    for (let step = 0; step < 4; step++) {
      const tree = treeOf(random, 20, drafts.root)
      const posterior = await verify(session, tree)
      const count = text.length
      const rows = [
        ...rowsOf(text),
        ...Array.from(tree.tokens, (token, node) => ({ token, position: count + tree.depths[node]! })),
      ]
      const whole = Array.from({ length: count }, (_, row) => row)
      const { hidden } = forward(
        pair.oracle,
        rows,
        treeBehind(count, tree.parents, () => whole),
      )
      expectPosterior(pair, posterior, tree, hidden.slice(count * pair.oracle.hidden), rows.length, random)
      // Any path may be committed, accepted by somebody's rule.
      const path: number[] = []
      for (let node = random.integer(0, 19); node >= 0; node = tree.parents[node]!) path.unshift(node)
      ;[drafts] = (await native().commit([{ session, path: Int32Array.from(path), medusaHeads: 0, topK: 1 }])) as [
        Drafts,
      ]
      expect(drafts.root).toBe(posterior.chosen[path.at(-1)!])
      text.push(...path.map((node) => tree.tokens[node]!))
      expect(native().sessionInfo(session)).toMatchObject({ position: text.length, rows: text.length })
    }
    await native().close(session)
  })
})

describe('Medusa heads of the whole model', () => {
  it("drafts are the oracle's best, after prefill and after every commit", async () => {
    const pair = await pairOf('llama with biases', 'f32')
    const heads = await writeTinyHeads(join(folder, 'heads'), pair.tiny, { medusaHeads: 3, blocks: 2 })
    const random = new Random('model heads')
    const session = native().openSession(await pair.open({ heads: heads.dir }))
    const text = textOf(random, 31)
    const asked = { medusaHeads: 3, topK: 5 }
    const expectDrafts = ({ tokens }: Drafts) => {
      const { hidden } = forward(pair.oracle, rowsOf(text), causal)
      const last = hidden.slice(-pair.oracle.hidden)
      oracleHeads(heads).forEach((head, h) => {
        const scores = medusaHead(last, head)
        const bests = scores.toSorted((a, b) => b - a).slice(0, 5)
        const drafted = Array.from(tokens.subarray(h * 5, h * 5 + 5), (id) => scores[id]!)
        // Scores, not ids: two that are this close may come in either order.
        const allowed = 2 * logitTolerance(pair, 'f32', text.length, scores)
        expectClose(drafted, bests, allowed, { random, axes: { rank: 5 }, what: `head ${h} of ${text.length} tokens` })
        expect(new Set(tokens.subarray(h * 5, h * 5 + 5)).size).toBe(5)
      })
    }
    const request = { session, tokens: Int32Array.from(text), sampling: GREEDY, compression: null, ...asked }
    let drafts: Drafts = (await prefill(request)).drafts
    expectDrafts(drafts)
    for (const length of [1, 3, 2]) {
      const parents = Int32Array.from({ length }, (_, node) => node - 1)
      const tokens = Int32Array.from(parents, (_, node) => (node === 0 ? drafts.root : random.integer(0, VOCAB - 1)))
      await native().verify([{ session, tokens, parents, typical: false }])
      const path = Int32Array.from(parents, (_, node) => node)
      ;[drafts] = (await native().commit([{ session, path, ...asked }])) as [Drafts]
      text.push(...tokens)
      expectDrafts(drafts)
    }
    await native().close(session)
  })
})

/** Rows the oracle keeps in a layer and KV head, and how clearly the last of them beat the first that went. */
function keptRows(
  pass: OracleForward,
  spec: CompressionSpec,
  layer: number,
  kvHead: number,
): { rows: number[]; margin: number } {
  const c = pass.attention[layer]!
  const total = c.tokens
  const lastRows = (count: number) => Array.from({ length: count }, (_, i) => total - count + i)
  if (spec.policy === 'streaming') {
    const first = Array.from({ length: spec.sinks }, (_, row) => row)
    return { rows: [...first, ...lastRows(spec.budget - spec.sinks)], margin: Number.POSITIVE_INFINITY }
  }
  const { queryHeads, kvHeads, headDim } = c
  const voters = spec.policy === 'snapkv' ? spec.window : total
  const first = total - voters
  const width = queryHeads * headDim
  const given = {
    ...c,
    rows: first,
    tokens: voters,
    position: first,
    q: Array.from(c.q).slice(first * width),
  }
  const prefix = total - spec.window
  const all = votes(given, total)
  const group = queryHeads / kvHeads
  const ofGroup = Array.from({ length: group }, (_, i) => {
    const head = kvHead * group + i
    return all.slice(head * total, head * total + prefix)
  })
  const scores = poolScores(reduceGroup(ofGroup, spec.groupReduce), spec.pool, spec.poolSize)
  const count = spec.budget - spec.window
  const best = scores.toSorted((a, b) => b - a)
  return { rows: [...bestRows(scores, count), ...lastRows(spec.window)], margin: best[count - 1]! - best[count]! }
}

describe('compression of the whole model', () => {
  const SPEC: CompressionSpec = {
    policy: 'snapkv',
    budget: 40,
    window: 8,
    poolSize: 3,
    pool: 'max',
    groupReduce: 'mean',
    sinks: 4,
    reportKept: true,
  }
  const SPECS: Record<string, CompressionSpec> = {
    'snapkv, max pool': SPEC,
    'snapkv, no pool, maximum of the group': { ...SPEC, poolSize: 1, groupReduce: 'max' },
    'snapkv, avg pool, a window of 20': { ...SPEC, pool: 'avg', poolSize: 5, window: 20 },
    'snapkv, one row besides the window': { ...SPEC, budget: 9, poolSize: 1 },
    h2o: { ...SPEC, policy: 'h2o', poolSize: 1 },
    streaming: { ...SPEC, policy: 'streaming' },
  }
  for (const [title, spec] of Object.entries(SPECS)) {
    it(`${title}: the oracle's rows stay; positions go on; trees and a second turn see what is left`, async () => {
      const pair = await pairOf('llama with biases', 'f32')
      const random = new Random(`model compression ${title}`)
      const text = textOf(random, 140)
      const count = text.length
      const session = native().openSession(await pair.open({}))
      const { drafts, compression } = await prefill({
        session,
        tokens: Int32Array.from(text),
        sampling: WITH_LOGPROBS,
        ...NO_COMPRESSION,
        compression: spec,
      })
      const pass = forward(pair.oracle, rowsOf(text), causal)
      const { layers, kvHeads } = pair.tiny
      const kept = Array.from({ length: layers * kvHeads }, (_, i) =>
        keptRows(pass, spec, Math.floor(i / kvHeads), i % kvHeads),
      )
      const keptOf = (layer: number, kvHead: number) => kept[layer * kvHeads + kvHead]!.rows
      for (let layer = 0; layer < layers; layer++) {
        for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
          const at = (layer * kvHeads + kvHead) * spec.budget
          const { rows, margin } = kept[layer * kvHeads + kvHead]!
          // With max pool whole neighbourhoods tie: then the lower row stays, in f32 as in f64, unless two maxima are this close.
          const where = `${random.name}, seed ${random.seed}, layer ${layer}, KV head ${kvHead}, margin ${margin}`
          expect(Array.from(compression!.kept!.subarray(at, at + spec.budget)), where).toEqual(rows)
        }
      }
      expect(native().sessionInfo(session)).toMatchObject({ position: count, rows: spec.budget })

      const tree = treeOf(random, 20, drafts.root)
      const posterior = await verify(session, tree)
      const nodes = Array.from(tree.tokens, (token, node) => ({ token, position: count + tree.depths[node]! }))
      const stepped = forward(pair.oracle, [...rowsOf(text), ...nodes], treeBehind(count, tree.parents, keptOf))
      expectPosterior(pair, posterior, tree, stepped.hidden.slice(count * pair.oracle.hidden), count + 20, random)

      // A second turn behind the committed root: its rows see what was kept, the root, and each other.
      const more = [drafts.root, ...textOf(random, 10)]
      await native().commit([{ session, path: Int32Array.of(0), medusaHeads: 0, topK: 1 }])
      const turn = Int32Array.from(more.slice(1))
      const second = await prefill({ session, tokens: turn, sampling: WITH_LOGPROBS, ...NO_COMPRESSION })
      const chain = more.map((_, i) => i - 1)
      const longer = forward(pair.oracle, rowsOf([...text, ...more]), treeBehind(count, chain, keptOf))
      const values = logits(pair.oracle, longer.hidden.slice(-pair.oracle.hidden))
      const { topIds, topValues } = second.drafts.logprobs!
      const allowed = 2 * logitTolerance(pair, 'f32', count + more.length, values)
      const place = { random, axes: { id: VOCAB }, what: 'after the second turn' }
      expectClose(byId(topIds, topValues), logSoftmax(values), allowed, place)
      expect(native().sessionInfo(session)).toMatchObject({ position: count + 11, rows: spec.budget + 11 })
      await native().close(session)
    })
  }
})
