// The single operations of the addon, typed, and running one case on every instruction set of this machine.
import { native, type SamplingSpec, type WeightDtype } from '../../src/native.js'
import { isCpu, testBackend } from './backend.js'
import { expectSameBits, type Place } from './compare.js'

/** Of packed weights: int8 has a scale for each column. */
export type PackedDtype = WeightDtype | 'int8'

/** A cache as plain arrays; the addon lays it out as appends would have, with `poison` in rows no operation may read. */
export interface CacheArgs {
  /** f32 [Hkv, rows, D]. */
  readonly k: Float32Array
  readonly v: Float32Array
  /** i32 [Hkv, rows]; null without an attention window. */
  readonly positions: Int32Array | null
  readonly poison: number
}

interface AttentionArgs {
  readonly dtype: WeightDtype
  readonly queryHeads: number
  readonly kvHeads: number
  readonly headDim: number
  /** 0 for none. */
  readonly window: number
}

/** Of T new tokens behind `rows` committed ones; the cache holds both. */
interface TokenAttentionArgs extends AttentionArgs {
  /** f32 [T, Hq, D'], D' = D rounded up to 32. */
  readonly q: Float32Array
  readonly cache: CacheArgs
  readonly tokens: number
  readonly rows: number
  /** Of the first new token. */
  readonly position: number
}

export interface TreeItemArgs {
  /** f32 [N, Hq, D']. */
  readonly q: Float32Array
  /** `rows` committed rows, then one for each node. */
  readonly cache: CacheArgs
  readonly nodes: number
  readonly rows: number
  readonly depths: Int32Array
  /** i32 [N, pathStride]. */
  readonly paths: Int32Array
  readonly pathStride: number
  readonly position: number
  readonly out: Float32Array
}

/** A session's nodes, and its cache in the layout of kernels/ops/kv_layout.h. */
export interface AppendItemArgs {
  readonly nodes: number
  readonly rows: number
  readonly position: number
  readonly depths: Int32Array
  /** i32 [N, pathStride]. */
  readonly paths: Int32Array
  readonly pathStride: number
  readonly capacity: number
  readonly cacheK: Uint8Array
  readonly cacheV: Uint8Array
  /** i32 [Hkv, capacity]. */
  readonly positions: Int32Array | null
}

/** [Hkv] caches as bytes in the layout of kernels/ops/kv_layout.h. */
interface RawCacheArgs {
  readonly kvHeads: number
  readonly headDim: number
  readonly dtype: WeightDtype
  readonly capacity: number
  readonly cacheK: Uint8Array
  readonly cacheV: Uint8Array
  /** i32 [Hkv, capacity]. */
  readonly positions: Int32Array | null
}

export interface PosteriorNodeArgs {
  /** f32 [V]. */
  readonly logits: Float32Array
  readonly sampling: Omit<SamplingSpec, 'logprobs'>
  readonly inPrompt: Uint8Array | null
  readonly outputCounts: Int32Array | null
  readonly pathTokens: Int32Array
  readonly generated: number
  readonly position: number
  readonly childTokens: Int32Array
  readonly typical: boolean
  readonly logprobs: number
}

export interface PosteriorResult {
  readonly chosen: number
  readonly entropy: number
  readonly chosenLogprob: number
  readonly childProb: Float32Array
  readonly childLogprob: Float32Array
  readonly topIds: Int32Array
  readonly topValues: Float32Array
}

declare const packed: unique symbol
/** A weight in tiles, once or several times; made and read by C++ alone. */
export type PackedCopies = { readonly [packed]: 'weight' }

/** Runs an operation again and again, for at least `leastMs` for each element, which becomes the nanoseconds of one call. */
export interface Timing {
  readonly leastMs: number
  readonly nanoseconds: Float64Array
}

/** Fields are those of the operation's contract in kernels/ops; outputs are written in place. */
interface OperationArgs {
  embed: {
    ids: Int32Array
    tokens: number
    /** Bytes of [V, C], of any alignment. */
    table: Uint8Array
    dtype: WeightDtype
    vocab: number
    width: number
    out: Float32Array
    outStride: number
  }
  rmsNorm: {
    x: Float32Array
    xStride: number
    rows: number
    width: number
    weight: Float32Array
    eps: number
    dtype: WeightDtype
    /** Whether `out` is laid out as products take it, which shows on no array here. */
    operand: boolean
    out: Float32Array
    outStride: number
  }
  rope: {
    x: Float32Array
    xStride: number
    tokens: number
    heads: number
    headDim: number
    cos: Float32Array
    sin: Float32Array
    asBf16: boolean
    out: Float32Array
    outStride: number
    outHeadStride: number
  }
  siluMul: {
    x: Float32Array
    xStride: number
    rows: number
    width: number
    dtype: WeightDtype
    out: Float32Array
    outStride: number
  }
  linear: {
    x: Float32Array
    xStride: number
    rows: number
    depth: number
    /** f32 [columns, depth], packed as `dtype`; or what `packCopies` made of it. */
    w: Float32Array | PackedCopies
    dtype: PackedDtype
    columns: number
    bias: Float32Array | null
    out: Float32Array
    outStride: number
    add: boolean
    /** Default false. */
    prompt?: boolean
  }
  gatedLinear: {
    x: Float32Array
    xStride: number
    rows: number
    depth: number
    /** f32 [2F, depth], gate's rows before up's, packed as `dtype`. */
    w: Float32Array
    dtype: PackedDtype
    ffn: number
    /** f32 [2F]. */
    bias: Float32Array | null
    out: Float32Array
    outStride: number
    prompt: boolean
  }
  ropeAngles: {
    inverseFrequencies: Float32Array
    half: number
    scale: number
    first: number
    count: number
    /** f32 [first + count, half]. */
    cos: Float32Array
    sin: Float32Array
  }
  ropeAppend: {
    dtype: WeightDtype
    queryHeads: number
    kvHeads: number
    headDim: number
    /** f32 [T, (Hq + 2 Hkv) D]. */
    qkv: Float32Array
    qkvStride: number
    items: readonly AppendItemArgs[]
    /** f32 [D]. */
    qNorm: Float32Array | null
    kNorm: Float32Array | null
    eps: number
    tableRows: number
    /** f32 [tableRows, D / 2]. */
    cos: Float32Array
    sin: Float32Array
    /** f32 [T, Hq, D'], D' = D rounded up to 32. */
    q: Float32Array
  }
  medusaHeads: {
    x: Float32Array
    xStride: number
    rows: number
    width: number
    dtype: PackedDtype
    headCount: number
    blockCount: number
    /** f32 [M, R, C, C]. */
    blocks: Float32Array
    /** f32 [M, R, C]. */
    biases: Float32Array | null
    /** f32 [M, V', C], or [1, V', C] when shared. */
    projection: Float32Array
    sharedProjection: boolean
    columns: number
    logits: Float32Array
    logitsStride: number
  }
  kvAppend: RawCacheArgs & {
    k: Float32Array
    kStride: number
    v: Float32Array
    vStride: number
    tokens: number
    rows: number
    position: number
    depths: Int32Array | null
  }
  kvGather: RawCacheArgs & { first: number; keep: Int32Array; rowsStride: number; count: number }
  /** `copies` of the cache, gone through in turn where it is timed. */
  causalAttention: TokenAttentionArgs & { out: Float32Array; outStride: number; copies?: number }
  treeAttention: AttentionArgs & { items: readonly TreeItemArgs[]; outStride: number; copies?: number }
  attentionVotes: TokenAttentionArgs & { voteRows: number; votes: Float32Array; votesStride: number }
  snapkvSelect: {
    votes: Float32Array
    votesStride: number
    queryHeads: number
    kvHeads: number
    n: number
    pool: 'max' | 'avg'
    poolSize: number
    groupReduce: 'mean' | 'max'
    count: number
    rows: Int32Array
    rowsStride: number
  }
  topK: { scores: Float32Array; stride: number; rows: number; columns: number; k: number; ids: Int32Array }
  crossEntropy: {
    x: Float32Array
    xStride: number
    rows: number
    columns: number
    targets: Int32Array
    scale: number
    losses: Float32Array
    ranks: Int32Array
    dtype: WeightDtype
    gradient: Float32Array | null
    gradientStride: number
  }
  linearGradient: {
    dy: Float32Array
    dyStride: number
    x: Float32Array
    xStride: number
    rows: number
    columns: number
    depth: number
    dtype: WeightDtype
    /** f32 [columns, depth]. */
    dw: Float32Array
    db: Float32Array | null
  }
  residualSilu: {
    a: Float32Array
    aStride: number
    rows: number
    width: number
    z: Float32Array
    zStride: number
    dtype: WeightDtype
    out: Float32Array
    outStride: number
  }
  residualSiluGradient: {
    a: Float32Array
    aStride: number
    dz: Float32Array
    dzStride: number
    rows: number
    width: number
    dtype: WeightDtype
    da: Float32Array
    daStride: number
  }
  packWeight: {
    /** f32 [rows, depth]. */
    source: Float32Array
    rows: number
    depth: number
    transposed: boolean
    dtype: WeightDtype
    tiles: Uint8Array
  }
  unpackWeight: {
    /** f32 [columns, depth], packed as `dtype` when it is given. */
    w: Float32Array
    dtype: PackedDtype
    columns: number
    depth: number
    out: Float32Array
  }
  adamw: {
    weights: Float32Array
    mean: Float32Array
    variance: Float32Array
    gradient: Float32Array
    count: number
    gradientScale: number
    rate: number
    beta1: number
    beta2: number
    epsilon: number
    decay: number
    correction1: number
    correction2: number
  }
  sumOfSquares: { x: Float32Array; count: number; out: Float64Array }
}

type Operation<Args> = (isa: string, threads: number, args: Readonly<Args> & { readonly timing?: Timing }) => void

type Operations = { readonly [Name in keyof OperationArgs]: Operation<OperationArgs[Name]> } & {
  posterior(
    isa: string,
    threads: number,
    args: { readonly vocab: number; readonly nodes: readonly PosteriorNodeArgs[] },
  ): PosteriorResult[]
  packColumns(args: {
    readonly source: Uint8Array
    readonly from: WeightDtype
    readonly tiles: Uint8Array
    readonly to: PackedDtype
    readonly depth: number
    readonly offset: number
    readonly first: number
    readonly last: number
  }): void
  samplingUniform(seed: bigint, position: number): number
  packCopies(args: {
    /** Default `auto`, the processor's. */
    readonly isa?: string
    readonly w: Float32Array
    readonly dtype: PackedDtype
    readonly columns: number
    readonly depth: number
    readonly copies?: number
  }): PackedCopies
  /** The bytes of a weight as it is packed when a model is loaded. */
  packedBytes(args: {
    readonly isa: string
    /** f32 [columns, depth]. */
    readonly w: Float32Array
    readonly dtype: PackedDtype
    readonly columns: number
    readonly depth: number
  }): Uint8Array
  /** f64 [threads]: what each thread's share adds up to. */
  streamRead(
    isa: string,
    threads: number,
    args: {
      /** f32, repeated over all lines. */
      readonly values: Float32Array
      /** Of 64 bytes. */
      readonly lines: number
      readonly copies?: number
      readonly streams: number
      readonly prefetchLines: number
      readonly timing?: Timing
    },
  ): Float64Array
  multiplyAdd(
    isa: string,
    threads: number,
    args: { readonly steps: number; readonly x: number; readonly timing?: Timing },
  ): { readonly flops: number; readonly sums: Float64Array }
}

export const ops = native().ops as unknown as Operations

/**
 * Instruction sets to test, the reference first: the others must have its bits. All of this processor's, portable first; but one of CUDA's,
 * which promises bits within each of its own only: the best, unless GORGON_CUDA names another.
 */
export const isas: readonly string[] = isCpu
  ? cpuIsas()
  : [testBackend.isa === 'auto' ? usableIsas()[0]! : testBackend.isa]

/** The one whose bits the others must have. */
export const referenceIsa = isas[0]!

/** The one the engine would choose. */
export const fastestIsa = isCpu ? usableIsas()[0]! : referenceIsa

/** In order of preference. */
function usableIsas(): string[] {
  const { isas: known } = native()
    .backends()
    .find(({ name }) => name === testBackend.backend)!
  return known.filter(({ usable }) => usable).map(({ name }) => name)
}

function cpuIsas(): string[] {
  return usableIsas().sort((a, b) => Number(b === 'portable') - Number(a === 'portable'))
}

/**
 * What `run` gives on the reference with one thread, after checking that every instruction set gives the same bits, alone and with a
 * team, and the fastest one with any number of threads up to four. A device has no threads: there it checks that the bits come again.
 */
export function onEveryIsa(place: Place, run: (isa: string, threads: number) => Float32Array): Float32Array {
  const reference = run(referenceIsa, 1)
  const teams: [string, number][] = [
    [referenceIsa, 2],
    ...isas.slice(1).flatMap((isa): [string, number][] => [
      [isa, 1],
      [isa, 3],
    ]),
    [fastestIsa, 2],
    [fastestIsa, 4],
  ]
  for (const [isa, threads] of teams) {
    const what = `${place.what ? `${place.what}, ` : ''}${isa} with ${threads} threads against ${referenceIsa}`
    expectSameBits(run(isa, threads), reference, { ...place, what })
  }
  return reference
}

export const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple

/** [rows, width] as rows of `stride` values, `fill` between them. */
export function strided(
  values: ArrayLike<number>,
  rows: number,
  width: number,
  stride: number,
  fill = 0,
): Float32Array {
  const out = new Float32Array(rows * stride).fill(fill)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) out[row * stride + i] = values[row * width + i]!
  }
  return out
}

/** A row of [rows, width]. */
export function rowOf(values: Float32Array, row: number, width: number): Float32Array {
  return values.slice(row * width, (row + 1) * width)
}
