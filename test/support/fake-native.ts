// A toy model behind the native contract, in plain JavaScript: tests of the engine's logic run without the addon.
import type {
  BackendInfo,
  CommitRequest,
  CompressionReport,
  Drafts,
  ModelHandle,
  ModelInfo,
  ModelSpec,
  Native,
  Posterior,
  PrefillRequest,
  PrefillStep,
  SamplingSpec,
  SessionHandle,
  SessionInfo,
  TokenLogprobs,
  VerifyRequest,
} from '../../src/native.js'
import { GREEDY } from './native-session.js'

export interface ToyOptions {
  readonly vocab?: number
  readonly layers?: number
  readonly kvHeads?: number
  readonly maxPositions?: number
  readonly medusaHeads?: number
  /** How often a Medusa head holds the token to come, 0 to 1. */
  readonly headAccuracy?: number
  /** Tokens of one prefill call, per layer. */
  readonly chunk?: number
  /** An id that is chosen about once in `stopEvery` tokens. */
  readonly stopId?: number
  readonly stopEvery?: number
}

export interface Call {
  readonly phase: 'prefill' | 'verify' | 'commit'
  /** Of each member, in order: the number of its session, from 1. */
  readonly sessions: readonly number[]
}

interface Toy {
  readonly number: number
  state: 'open' | 'prefilling' | 'ready' | 'verified' | 'closed'
  /** Committed, in order. */
  readonly tokens: number[]
  /** State of the toy model after the committed tokens. */
  hash: number
  rows: number
  /** Chosen in this turn, the root included. */
  turnTokens: number
  request: PrefillRequest | null
  chunksDone: number
  verified: { tokens: Int32Array; parents: Int32Array; hashes: number[]; chosen: Int32Array } | null
}

const KV_BYTES_PER_TOKEN = 32

/** 32 well-mixed bits of two numbers. */
function mix(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35)
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d)
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39)
  return (h ^ (h >>> 15)) >>> 0
}

/** An error as the addon raises it. */
export function nativeError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code, details: {} })
}

/**
 * The next token is a hash of all tokens before it, so any token lost, doubled or out of order shows in everything after it. A token's
 * row from prefill and its row from verify differ, as they may in their last bits: text that depends on which of the two computed a row
 * shows as well.
 *
 * Every rule of the contract is enforced: phase order, one call at a time, shapes, ranges, nothing done to any member of a call that fails.
 */
export class FakeNative implements Native {
  readonly ops = {}
  /** The engine never asks for it. */
  readonly training = {} as Native['training']
  /** Every phase call, in order. */
  readonly calls: Call[] = []
  /** Every turn begun, in order. */
  readonly turns: PrefillRequest[] = []
  /** Breaches of the contract. Each also fails the call it was found in. */
  readonly breaches: string[] = []
  /** Of drafts from here on. */
  headAccuracy: number
  openSessions = 0
  openModels = 0
  /** The most sessions open at once. */
  peakSessions = 0
  /** Awaited by every phase call; what it throws fails the call. */
  onCall: (call: Call) => void | Promise<void> = () => undefined
  readonly #toy: Required<ToyOptions>
  readonly #sessions = new Map<SessionHandle, Toy>()
  readonly #busy = new Set<Toy>()
  #count = 0
  #inFlight = false

  constructor(options: ToyOptions = {}) {
    this.#toy = {
      vocab: 97,
      layers: 2,
      kvHeads: 2,
      maxPositions: 4096,
      medusaHeads: 4,
      headAccuracy: 0.7,
      chunk: 64,
      stopId: -1,
      stopEvery: 1,
      ...options,
    }
    this.headAccuracy = this.#toy.headAccuracy
  }

  backends(): BackendInfo[] {
    return [
      { name: 'cpu', usable: true, detail: 'a toy', isas: [{ name: 'portable', usable: true }], devices: [] },
      { name: 'cuda', usable: false, detail: 'no device', isas: [], devices: [] },
    ]
  }

  async openModel(_spec: ModelSpec): Promise<ModelHandle> {
    return this.openToyModel()
  }

  openToyModel(): ModelHandle {
    this.openModels++
    return {} as ModelHandle
  }

  modelInfo(_model: ModelHandle): ModelInfo {
    return {
      backend: 'cpu',
      isa: 'portable',
      threads: 1,
      device: null,
      memoryUsed: 0,
      memoryPeak: 0,
      dtype: 'f32',
      weights: 'full',
      weightBytes: 1,
      headsBytes: 1,
      kvBytesPerToken: KV_BYTES_PER_TOKEN,
    }
  }

  openSession(_model: ModelHandle): SessionHandle {
    const handle = {} as SessionHandle
    this.#sessions.set(handle, {
      number: ++this.#count,
      state: 'open',
      tokens: [],
      hash: 1,
      rows: 0,
      turnTokens: 0,
      request: null,
      chunksDone: 0,
      verified: null,
    })
    this.openSessions++
    this.peakSessions = Math.max(this.peakSessions, this.openSessions)
    return handle
  }

  beginPrefill(request: PrefillRequest): void {
    const toy = this.#find(request.session)
    this.#expect(toy.state !== 'prefilling', 'ERR_STATE', 'beginPrefill during prefill')
    this.#expect(request.tokens.length > 0, 'ERR_ARGUMENT', 'beginPrefill without tokens')
    this.#expectTokens(request.tokens)
    this.#expectDrafts(request)
    this.#expectRoom(toy, request.tokens.length)
    const { compression } = request
    if (compression) {
      this.#expect(compression.budget < toy.rows + request.tokens.length, 'ERR_ARGUMENT', 'nothing to compress')
      this.#expect(compression.window <= request.tokens.length, 'ERR_ARGUMENT', 'window longer than the turn')
    }
    const copy = { ...request, tokens: request.tokens.slice() }
    this.turns.push(copy)
    Object.assign(toy, { request: copy, state: 'prefilling', chunksDone: 0, turnTokens: 0, verified: null })
  }

  async assumePrefill({
    session,
    tokens,
  }: {
    readonly session: SessionHandle
    readonly tokens: number
  }): Promise<void> {
    const toy = this.#find(session)
    this.#expect(toy.state === 'open', 'ERR_STATE', `assumePrefill while ${toy.state}`)
    this.#expect(Number.isInteger(tokens) && tokens > 0, 'ERR_ARGUMENT', `assumePrefill of ${tokens}`)
    this.#expectRoom(toy, tokens)
    for (let i = 0; i < tokens; i++) this.#append(toy, 0, true)
    toy.request = {
      session,
      tokens: new Int32Array(tokens),
      sampling: GREEDY,
      compression: null,
      medusaHeads: 0,
      topK: 0,
    }
    toy.state = 'ready'
  }

  async prefill(batch: readonly SessionHandle[]): Promise<PrefillStep[]> {
    return this.#phase('prefill', batch, (toys) => {
      for (const toy of toys) this.#expect(toy.state === 'prefilling', 'ERR_STATE', `prefill while ${toy.state}`)
      return toys.map((toy) => this.#prefillChunk(toy))
    })
  }

  async verify(batch: readonly VerifyRequest[]): Promise<Posterior[]> {
    // Arguments are copied before the call returns.
    const requests = batch.map((request) => ({
      ...request,
      tokens: request.tokens.slice(),
      parents: request.parents.slice(),
    }))
    return this.#phase(
      'verify',
      batch.map((request) => request.session),
      (toys) => {
        for (const [i, toy] of toys.entries()) this.#expectTree(toy, requests[i]!)
        return toys.map((toy, i) => this.#verifyTree(toy, requests[i]!))
      },
    )
  }

  async commit(batch: readonly CommitRequest[]): Promise<Drafts[]> {
    const requests = batch.map((request) => ({ ...request, path: request.path.slice() }))
    return this.#phase(
      'commit',
      batch.map((request) => request.session),
      (toys) => {
        for (const [i, toy] of toys.entries()) this.#expectPath(toy, requests[i]!)
        return toys.map((toy, i) => this.#commitPath(toy, requests[i]!))
      },
    )
  }

  sessionInfo(session: SessionHandle): SessionInfo {
    const toy = this.#find(session)
    return { position: toy.tokens.length, rows: toy.rows, bytes: toy.rows * KV_BYTES_PER_TOKEN }
  }

  async close(handle: ModelHandle | SessionHandle): Promise<void> {
    const toy = this.#sessions.get(handle as SessionHandle)
    if (!toy) {
      this.openModels--
    } else if (toy.state !== 'closed') {
      toy.state = 'closed'
      this.openSessions--
    }
  }

  /** What a session holds, closed ones included; sessions are numbered from 1 in the order they were opened. */
  committed(number: number): readonly number[] {
    for (const toy of this.#sessions.values()) if (toy.number === number) return toy.tokens
    throw new Error(`no session ${number}`)
  }

  /** The tokens that follow a prompt, by plain decoding. */
  continuation(prompt: readonly number[], count: number, seed = 0n): number[] {
    let hash = prompt.reduce((h, token) => this.#step(h, token, true), 1)
    const tokens: number[] = []
    while (tokens.length < count) {
      const token = this.#next(hash, { temperature: seed === 0n ? 0 : 1, seed, minTokens: 0 }, tokens.length)
      tokens.push(token)
      hash = this.#step(hash, token, false)
    }
    return tokens
  }

  async #phase<A>(
    phase: Call['phase'],
    handles: readonly SessionHandle[],
    work: (toys: readonly Toy[]) => A[],
  ): Promise<A[]> {
    this.#expect(!this.#inFlight, 'ERR_BUSY', `${phase} during another call`)
    this.#expect(handles.length > 0, 'ERR_ARGUMENT', `${phase} of nobody`)
    this.#expect(new Set(handles).size === handles.length, 'ERR_ARGUMENT', `${phase} of one session twice`)
    const toys = handles.map((handle) => this.#find(handle))
    const call: Call = { phase, sessions: toys.map((toy) => toy.number) }
    this.calls.push(call)
    this.#inFlight = true
    for (const toy of toys) this.#busy.add(toy)
    try {
      await new Promise((resolve) => setImmediate(resolve))
      await this.onCall(call)
      for (const toy of toys) this.#expect(toy.state !== 'closed', 'ERR_CLOSED', `closed during ${phase}`)
      return work(toys)
    } finally {
      this.#inFlight = false
      this.#busy.clear()
    }
  }

  #prefillChunk(toy: Toy): PrefillStep {
    const request = toy.request!
    const { layers, chunk } = this.#toy
    const chunks = Math.ceil(request.tokens.length / chunk)
    toy.chunksDone++
    const total = layers * request.tokens.length
    const done = Math.min(total, Math.floor((toy.chunksDone * total) / (layers * chunks)))
    if (toy.chunksDone < layers * chunks) return { done, total, result: null }

    for (const token of request.tokens) this.#append(toy, token, true)
    const compression = this.#compress(toy, request)
    toy.state = 'ready'
    return { done: total, total, result: { drafts: this.#draft(toy, request), compression } }
  }

  #compress(toy: Toy, { compression: spec }: PrefillRequest): CompressionReport | null {
    if (!spec) return null
    const rowsBefore = toy.rows
    toy.rows = spec.budget
    const { layers, kvHeads } = this.#toy
    const kept = Int32Array.from({ length: layers * kvHeads * spec.budget }, (_, i) => {
      const row = i % spec.budget
      return row < spec.budget - spec.window ? row * 2 : toy.tokens.length - spec.budget + row
    })
    return {
      rowsBefore,
      rowsKept: spec.budget,
      bytesBefore: rowsBefore * KV_BYTES_PER_TOKEN,
      bytesAfter: spec.budget * KV_BYTES_PER_TOKEN,
      ms: 0,
      kept: spec.reportKept ? kept : null,
    }
  }

  #verifyTree(toy: Toy, { tokens, parents, typical }: VerifyRequest): Posterior {
    const { sampling } = toy.request!
    const hashes: number[] = []
    const depths: number[] = []
    const chosen = new Int32Array(tokens.length)
    for (const [node, token] of tokens.entries()) {
      const parent = parents[node]!
      hashes.push(this.#step(parent < 0 ? toy.hash : hashes[parent]!, token, false))
      depths.push(parent < 0 ? 0 : depths[parent]! + 1)
      chosen[node] = this.#next(hashes[node]!, sampling, toy.turnTokens + depths[node]!)
    }
    toy.verified = { tokens, parents, hashes, chosen }
    toy.state = 'verified'
    const before = (node: number) => (parents[node]! < 0 ? toy.hash : hashes[parents[node]!]!)
    const tops = hashes.map((hash) => this.#logprobs(hash, 0, sampling))
    return {
      chosen,
      tokenProb: typical
        ? Float32Array.from(tokens, (token, node) => (node === 0 ? 1 : (mix(before(node), token) % 1000) / 1000))
        : new Float32Array(0),
      entropy: typical ? Float32Array.from(hashes, (hash) => (hash % 3000) / 1000) : new Float32Array(0),
      logprobs:
        sampling.logprobs < 0
          ? null
          : {
              chosen: Float32Array.from(chosen, (token, node) => this.#logprob(hashes[node]!, token)),
              token: Float32Array.from(tokens, (token, node) =>
                node === 0 ? Number.NaN : this.#logprob(before(node), token),
              ),
              topIds: Int32Array.from(tops.flatMap((top) => [...top!.topIds])),
              topValues: Float32Array.from(tops.flatMap((top) => [...top!.topValues])),
            },
    }
  }

  #commitPath(toy: Toy, request: CommitRequest): Drafts {
    for (const node of request.path) this.#append(toy, toy.verified!.tokens[node]!, false)
    toy.turnTokens += request.path.length - 1
    toy.verified = null
    toy.state = 'ready'
    return this.#draft(toy, request)
  }

  #append(toy: Toy, token: number, prefill: boolean): void {
    toy.tokens.push(token)
    toy.hash = this.#step(toy.hash, token, prefill)
    toy.rows++
  }

  /** The next root, which counts as a token of the turn from here on, and what the Medusa heads make of it. */
  #draft(toy: Toy, { medusaHeads, topK }: { readonly medusaHeads: number; readonly topK: number }): Drafts {
    const { sampling } = toy.request!
    const root = this.#next(toy.hash, sampling, toy.turnTokens)
    toy.turnTokens++
    const tokens = new Int32Array(medusaHeads * topK)
    let hash = this.#step(toy.hash, root, false)
    for (let head = 0; head < medusaHeads; head++) {
      const truth = this.#next(hash, sampling, toy.turnTokens + head)
      const luck = mix(hash, 7777) / 2 ** 32
      const rank = luck < this.headAccuracy ? mix(hash, 8888) % Math.min(3, topK) : -1
      const row = new Set<number>()
      for (let i = 0; row.size < topK; i++) {
        const guess = row.size === rank ? truth : mix(hash, 9000 + i) % this.#toy.vocab
        if (row.size === rank || guess !== truth) row.add(guess)
      }
      tokens.set([...row], head * topK)
      hash = this.#step(hash, truth, false)
    }
    return { root, tokens, logprobs: this.#logprobs(toy.hash, root, sampling) }
  }

  #step(hash: number, token: number, prefill: boolean): number {
    return mix(hash, token * 2 + (prefill ? 1 : 0))
  }

  #next(
    hash: number,
    sampling: Pick<SamplingSpec, 'temperature' | 'seed' | 'minTokens'> & { readonly suppressedIds?: Int32Array },
    turnTokens: number,
  ): number {
    const { vocab, stopId, stopEvery } = this.#toy
    let draw = sampling.temperature === 0 ? mix(hash, 1) : mix(hash, Number(sampling.seed & 0xffffffffn) + 2)
    for (;;) {
      const token = stopId >= 0 && mix(draw, 5) % stopEvery === 0 ? stopId : draw % vocab
      if (turnTokens >= sampling.minTokens || !sampling.suppressedIds?.includes(token)) return token
      draw = mix(draw, 3)
    }
  }

  #logprob(hash: number, token: number): number {
    return -(mix(hash, token) % 1000) / 64
  }

  #logprobs(hash: number, token: number, sampling: SamplingSpec): TokenLogprobs | null {
    if (sampling.logprobs < 0) return null
    const ids = Array.from({ length: sampling.logprobs }, (_, i) => (mix(hash, 11) + i) % this.#toy.vocab)
    ids.sort((a, b) => this.#logprob(hash, b) - this.#logprob(hash, a))
    return {
      chosen: this.#logprob(hash, token),
      topIds: Int32Array.from(ids),
      topValues: Float32Array.from(ids, (id) => this.#logprob(hash, id)),
    }
  }

  #find(session: SessionHandle): Toy {
    const toy = this.#sessions.get(session)
    this.#expect(toy !== undefined, 'ERR_ARGUMENT', 'not a session')
    this.#expect(toy!.state !== 'closed', 'ERR_CLOSED', 'use after close')
    this.#expect(!this.#busy.has(toy!), 'ERR_BUSY', 'use during a call')
    return toy!
  }

  #expectTree(toy: Toy, { tokens, parents }: VerifyRequest): void {
    this.#expect(toy.state === 'ready', 'ERR_STATE', `verify while ${toy.state}`)
    this.#expect(tokens.length >= 1 && tokens.length <= 64, 'ERR_SHAPE', `${tokens.length} nodes`)
    this.#expect(parents.length === tokens.length && parents[0] === -1, 'ERR_SHAPE', 'parents')
    this.#expectTokens(tokens)
    const depths = [0]
    for (let node = 1; node < tokens.length; node++) {
      const parent = parents[node]!
      this.#expect(parent >= 0 && parent < node, 'ERR_ARGUMENT', `parent ${parent} of node ${node}`)
      depths.push(depths[parent]! + 1)
    }
    this.#expectRoom(toy, Math.max(...depths) + 1)
  }

  #expectPath(toy: Toy, request: CommitRequest): void {
    this.#expect(toy.state === 'verified', 'ERR_STATE', `commit while ${toy.state}`)
    const { path } = request
    this.#expect(path.length > 0 && path[0] === 0, 'ERR_ARGUMENT', 'path without root')
    for (let i = 1; i < path.length; i++) {
      this.#expect(toy.verified!.parents[path[i]!] === path[i - 1], 'ERR_ARGUMENT', `node ${path[i]} is off the path`)
    }
    this.#expectDrafts(request)
  }

  #expectDrafts({ medusaHeads, topK }: { readonly medusaHeads: number; readonly topK: number }): void {
    this.#expect(medusaHeads >= 0 && medusaHeads <= this.#toy.medusaHeads, 'ERR_ARGUMENT', `${medusaHeads} heads`)
    this.#expect(topK >= (medusaHeads > 0 ? 1 : 0), 'ERR_ARGUMENT', `topK ${topK}`)
  }

  #expectTokens(tokens: Int32Array): void {
    const bad = tokens.find((token) => token < 0 || token >= this.#toy.vocab)
    this.#expect(bad === undefined, 'ERR_ARGUMENT', `token ${bad}`)
  }

  #expectRoom(toy: Toy, positions: number): void {
    const end = toy.tokens.length + positions
    this.#expect(end <= this.#toy.maxPositions, 'ERR_ARGUMENT', `position ${end - 1} of ${this.#toy.maxPositions}`)
  }

  #expect(holds: boolean, code: string, what: string): void {
    if (holds) return
    this.breaches.push(`${code}: ${what}`)
    throw nativeError(code, what)
  }
}
