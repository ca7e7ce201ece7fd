// Which stretches of text each step learns from: windows of documents, and their order from the seed alone.
import { createHash } from 'node:crypto'
import { FEWEST_TOKENS, type TrainingDocument } from './data.js'

/** Some of a document, read by itself from position 0. */
export interface Window {
  readonly tokens: Int32Array
  /** Tokens before this index are context only. */
  readonly from: number
}

/**
 * Documents cut to the context, the cuts beginning as their documents do: with the beginning-of-sequence token, if those have it. Windows
 * without a token to learn are left out.
 */
export function cutWindows(documents: readonly TrainingDocument[], context: number, bosId: number | null): Window[] {
  const windows: Window[] = []
  for (const { tokens, from } of documents) {
    const first = tokens.subarray(0, context)
    if (isWorthReading(first, from)) windows.push({ tokens: first, from })
    const begin = bosId !== null && tokens[0] === bosId ? 1 : 0
    for (let at = context; at < tokens.length; at += context - begin) {
      const own = tokens.subarray(at, at + context - begin)
      const window = begin === 0 ? own : withBos(own, bosId!)
      const learnt = Math.max(0, from - at) + (from > at ? begin : 0)
      if (isWorthReading(window, learnt)) windows.push({ tokens: window, from: learnt })
    }
  }
  return windows
}

function isWorthReading({ length }: Int32Array, from: number): boolean {
  return length >= FEWEST_TOKENS && from < length
}

function withBos(tokens: Int32Array, bosId: number): Int32Array {
  const window = new Int32Array(tokens.length + 1)
  window[0] = bosId
  window.set(tokens, 1)
  return window
}

export interface Batch {
  /** From 0. */
  readonly epoch: number
  /** Indices of windows. */
  readonly windows: readonly number[]
}

/**
 * The batches of all epochs. An epoch has every window once, in an order of its own; a batch has as many, in that order, as make up the
 * tokens asked for, and at least one.
 */
export class BatchPlan {
  readonly #lengths: readonly number[]
  readonly #batchTokens: number
  readonly #seed: number
  /** Of each epoch looked at so far, the number of the first batch, from 0. */
  readonly #firsts: number[] = [0]
  #current: { readonly epoch: number; readonly batches: readonly (readonly number[])[] } | undefined

  /** @param lengths tokens of each window; at least one window. */
  constructor(lengths: readonly number[], batchTokens: number, seed: number) {
    this.#lengths = lengths
    this.#batchTokens = batchTokens
    this.#seed = seed
  }

  /** Steps that so many epochs take. */
  stepsOf(epochs: number): number {
    this.#countTo(epochs)
    return this.#firsts[epochs]!
  }

  /** @param step from 1. */
  at(step: number): Batch {
    const index = step - 1
    let epoch = this.#firsts.findLastIndex((first) => first <= index)
    while (epoch === this.#firsts.length - 1) {
      this.#countTo(epoch + 1)
      if (this.#firsts[epoch + 1]! <= index) epoch++
    }
    return { epoch, windows: this.#batchesOf(epoch)[index - this.#firsts[epoch]!]! }
  }

  #countTo(epochs: number): void {
    while (this.#firsts.length <= epochs) {
      const epoch = this.#firsts.length - 1
      this.#firsts.push(this.#firsts[epoch]! + this.#batchesOf(epoch).length)
    }
  }

  #batchesOf(epoch: number): readonly (readonly number[])[] {
    if (this.#current?.epoch === epoch) return this.#current.batches
    const order = [...shuffled(this.#lengths.length, `${this.#seed}/${epoch}`)]
    const batches = grouped(order, (window) => this.#lengths[window]!, this.#batchTokens)
    this.#current = { epoch, batches }
    return batches
  }
}

/** 0 to count - 1 in an order that follows from the seed (Fisher and Yates). */
export function shuffled(count: number, seed: string): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i)
  const random = randomWords(seed)
  for (let i = count - 1; i > 0; i--) {
    // A 32-bit word modulo i + 1 favours small numbers by less than count / 2^32.
    const j = random() % (i + 1)
    ;[order[i], order[j]] = [order[j]!, order[i]!]
  }
  return order
}

/** 32 random bits at a time: sfc32 of practrand, begun from a hash of the seed. */
function randomWords(seed: string): () => number {
  const digest = createHash('sha256').update(seed).digest()
  let [a, b, c, d] = [digest.readInt32LE(0), digest.readInt32LE(4), digest.readInt32LE(8), 1]
  return () => {
    const word = (a + b + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + word
    c |= 0
    return word >>> 0
  }
}

/** Consecutive items whose sizes add up to at most `limit`, or single larger ones. */
export function grouped<Item>(items: readonly Item[], sizeOf: (item: Item) => number, limit: number): Item[][] {
  const groups: Item[][] = []
  let size = Number.POSITIVE_INFINITY
  for (const item of items) {
    const own = sizeOf(item)
    if (size + own > limit) {
      groups.push([])
      size = 0
    }
    groups.at(-1)!.push(item)
    size += own
  }
  return groups
}
