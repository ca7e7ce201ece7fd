// The one door to the C++ addon: loads it, and describes every function, array and object that crosses.
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GorgonError, liftNativeErrors } from './errors.js'
import type { NativeTraining } from './native-training.js'

declare const kind: unique symbol
/** Made and read by C++ alone. */
export type ModelHandle = { readonly [kind]: 'model' }
/** Made and read by C++ alone. */
export type SessionHandle = { readonly [kind]: 'session' }

export type WeightDtype = 'f32' | 'f16' | 'bf16'
/** How weights that are multiplied are held: in the dtype, or as int8 with a scale for each column. */
export type WeightForm = 'full' | 'int8'

/** Where a tensor's bytes are: a byte range of one of the files of the spec. */
export interface TensorSlice {
  /** Index into `files`. */
  readonly file: number
  readonly dtype: WeightDtype
  readonly shape: readonly number[]
  /** First byte, from the start of the file. */
  readonly begin: number
  /** One past the last byte, from the start of the file. */
  readonly end: number
}

/** The numbers a forward pass needs, as TypeScript read them from config.json. */
export interface ModelShape {
  readonly layers: number
  readonly hidden: number
  readonly ffn: number
  readonly vocab: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly rmsEps: number
  /** Positions the model was made for; rows past it are refused. */
  readonly maxPositions: number
  /** f32 [headDim / 2]: RoPE angle of pair i at position p is p * inverseFrequencies[i]. */
  readonly inverseFrequencies: Float32Array
  /** Multiplies cos and sin (YaRN); 1 otherwise. */
  readonly ropeScale: number
  /** i32 [layers]: keys within this many positions are visible; 0 means all. */
  readonly slidingWindows: Int32Array
}

/**
 * Tensors by role. `embed` [V, C], `final_norm` [C], `lm_head` [V, C] (absent: tied to embed), and per layer
 * `layers.N.` + `attn_norm`, `q`, `k`, `v`, `o`, `ffn_norm`, `gate`, `up`, `down`, with optional `q_norm`, `k_norm` [D] and
 * `q_bias`, `k_bias`, `v_bias`, `o_bias`, `gate_bias`, `up_bias`, `down_bias`.
 */
export type ModelTensors = Readonly<Record<string, TensorSlice>>

/** Medusa heads by role: `H.block.R.weight` [C, C], `H.block.R.bias` [C] (optional), `H.projection` [V', C] (absent: base lm_head). */
export interface HeadsSpec {
  readonly medusaHeads: number
  /** Residual blocks per head; may be 0. */
  readonly blocks: number
  readonly files: readonly string[]
  readonly tensors: Readonly<Record<string, TensorSlice>>
  /** i32 [V']: vocabulary id of row r of a reduced projection; null when row = id. */
  readonly tokenMap: Int32Array | null
  /** Of synthetic heads, for benchmarks: false gives each a projection of its own. Default true: the base lm_head. */
  readonly sharedProjection?: boolean
}

export interface ModelSpec {
  /** Name from `backends()`. */
  readonly backend: string
  /** Instruction set of the backend: a name from `backends()`, or `auto`. */
  readonly isa: string
  /** Compute threads of the CPU; 0 means one per physical core. */
  readonly threads: number
  /** Of a backend with devices: which one, from 0. */
  readonly device: number
  /** Bytes of the device's memory that may be used; 0 is what is free. */
  readonly memoryBudget: number
  /** `auto` keeps the checkpoint's dtype; otherwise weights are converted to this. */
  readonly dtype: WeightDtype | 'auto'
  /** `int8` takes the dtype bf16; `auto` is bf16 with it. */
  readonly weights: WeightForm
  readonly files: readonly string[]
  readonly shape: ModelShape
  readonly tensors: ModelTensors
  readonly heads: HeadsSpec | null
  /**
   * For benchmarks: random weights of the shape, drawn on the device, in place of files and tensors. `seed` is a whole number from 0; the
   * CPU refuses it.
   */
  readonly synthetic?: { readonly seed: number }
  /** i32 [2] over shared memory: [0] tensors loaded so far (written by C++), [1] set to 1 to cancel (read by C++). */
  readonly progress: Int32Array
}

export interface ModelInfo {
  readonly backend: string
  readonly isa: string
  readonly threads: number
  /** Name of the device; null on the CPU. */
  readonly device: string | null
  /** Bytes in use now, and the most so far, of the device's memory; 0 on the CPU. */
  readonly memoryUsed: number
  readonly memoryPeak: number
  /** Of activations and caches. */
  readonly dtype: WeightDtype
  readonly weights: WeightForm
  readonly weightBytes: number
  readonly headsBytes: number
  /** Of K and V together, over all layers, for one token. */
  readonly kvBytesPerToken: number
}

/** How one token is chosen from a row of logits. Applied in this order: bias, penalties, minTokens, temperature, top-k, top-p, min-p. */
export interface SamplingSpec {
  /** 0 is greedy. */
  readonly temperature: number
  /** 0 is off. */
  readonly topK: number
  /** 1 is off. */
  readonly topP: number
  /** 0 is off. */
  readonly minP: number
  /** 1 is off; over prompt and output. */
  readonly repetitionPenalty: number
  /** 0 is off; over output. */
  readonly frequencyPenalty: number
  /** 0 is off; over output. */
  readonly presencePenalty: number
  readonly biasIds: Int32Array
  readonly biasValues: Float32Array
  readonly seed: bigint
  /** Until this many tokens of the turn exist, `suppressedIds` cannot be chosen. */
  readonly minTokens: number
  readonly suppressedIds: Int32Array
  /** Log-probabilities to return per chosen token: -1 none, 0 the chosen one, n also the n best. */
  readonly logprobs: number
}

export interface CompressionSpec {
  readonly policy: 'snapkv' | 'h2o' | 'streaming'
  /** Rows kept per layer and KV head, window included. */
  readonly budget: number
  /** Last prompt tokens: always kept; their queries vote (snapkv). */
  readonly window: number
  readonly poolSize: number
  readonly pool: 'max' | 'avg'
  /** How the votes of a KV head's query heads become one. */
  readonly groupReduce: 'mean' | 'max'
  /** First rows always kept (streaming). */
  readonly sinks: number
  /** Return the positions kept. */
  readonly reportKept: boolean
}

export interface CompressionReport {
  /** Rows per layer before and after. */
  readonly rowsBefore: number
  readonly rowsKept: number
  readonly bytesBefore: number
  readonly bytesAfter: number
  readonly ms: number
  /** i32 [L, Hkv, rowsKept]: positions kept, ascending; null unless asked for. */
  readonly kept: Int32Array | null
}

/** What the next step needs after prefill or commit. */
export interface Drafts {
  /** The next token, already certain. */
  readonly root: number
  /** i32 [medusaHeads, topK], best first; empty for plain decoding. */
  readonly tokens: Int32Array
  /** Of the root; null unless asked for. */
  readonly logprobs: TokenLogprobs | null
}

/** Of one chosen token, under the base model's unwarped distribution. */
export interface TokenLogprobs {
  readonly chosen: number
  /** [n], best first. */
  readonly topIds: Int32Array
  readonly topValues: Float32Array
}

export interface PrefillRequest {
  readonly session: SessionHandle
  /** Tokens of this turn, appended at the session's position. */
  readonly tokens: Int32Array
  readonly sampling: SamplingSpec
  /** Null keeps every row. */
  readonly compression: CompressionSpec | null
  /** Medusa heads to run on the last row, and drafts of each. */
  readonly medusaHeads: number
  readonly topK: number
}

export interface PrefillStep {
  /** Work done and in all, in token-layers. */
  readonly done: number
  readonly total: number
  /** Not null once the last chunk is done. */
  readonly result: { readonly drafts: Drafts; readonly compression: CompressionReport | null } | null
}

export interface VerifyRequest {
  readonly session: SessionHandle
  /** i32 [N], 1 <= N <= 64; node 0 is the root. */
  readonly tokens: Int32Array
  /** i32 [N]: parent node, before its child; -1 for node 0. */
  readonly parents: Int32Array
  /** Also return tokenProb and entropy. */
  readonly typical: boolean
}

/** Base-model summary per node. */
export interface Posterior {
  /** i32 [N]: the token decoding chooses after this node: arg max, or the seeded sample of the warped distribution. */
  readonly chosen: Int32Array
  /** f32 [N]: warped probability of node n's token after its parent; [0] is 1. Empty unless `typical`. */
  readonly tokenProb: Float32Array
  /** f32 [N]: nats, of the warped distribution after the node. Empty unless `typical`. */
  readonly entropy: Float32Array
  /** Null unless asked for. Unwarped. */
  readonly logprobs: {
    /** f32 [N]: of chosen[n]. */
    readonly chosen: Float32Array
    /** f32 [N]: of node n's own token after its parent; [0] is NaN. */
    readonly token: Float32Array
    /** i32 and f32 [N, n], best first. */
    readonly topIds: Int32Array
    readonly topValues: Float32Array
  } | null
}

export interface CommitRequest {
  readonly session: SessionHandle
  /** Accepted nodes, root first. */
  readonly path: Int32Array
  /** 0 drafts nothing: plain decoding, or the end of a turn. */
  readonly medusaHeads: number
  readonly topK: number
}

export interface SessionInfo {
  /** Tokens committed so far: the position of the next one. */
  readonly position: number
  /** Rows held per layer. */
  readonly rows: number
  /** Bytes of K and V held. */
  readonly bytes: number
}

export interface DeviceInfo {
  readonly name: string
  readonly memoryBytes: number
  /** As in "9.0". */
  readonly computeCapability: string
  readonly multiprocessors: number
}

export interface BackendInfo {
  readonly name: string
  readonly usable: boolean
  /** Why it cannot be used; what it is otherwise. */
  readonly detail: string
  /** Instruction sets in order of preference, with whether this machine has them. */
  readonly isas: readonly { readonly name: string; readonly usable: boolean }[]
  /** What it can run on, by number; empty for the CPU. */
  readonly devices: readonly DeviceInfo[]
}

/**
 * The addon. It throws and rejects with Errors that carry a `code` (kernels/common/status.def); `native()` lifts them to GorgonErrors.
 * Sessions take one call at a time (`ERR_BUSY`), in phase order (`ERR_STATE`): beginPrefill, prefill until it has a result, then verify and
 * commit in turns; beginPrefill again starts the next turn.
 */
export interface Native {
  backends(): BackendInfo[]
  openModel(spec: ModelSpec): Promise<ModelHandle>
  modelInfo(model: ModelHandle): ModelInfo
  openSession(model: ModelHandle): SessionHandle
  /** Copies the request; does no work. Forgets a verify that was not committed. */
  beginPrefill(request: PrefillRequest): void
  /**
   * In place of a new session's first turn: a cache as after a prompt of `tokens` tokens (rounded up to whole groups of rows), of
   * arbitrary numbers. Its steps choose nonsense and cost what they would cost: for measuring.
   */
  assumePrefill(request: { readonly session: SessionHandle; readonly tokens: number }): Promise<void>
  /** One chunk of one layer for each session. */
  prefill(batch: readonly SessionHandle[]): Promise<PrefillStep[]>
  verify(batch: readonly VerifyRequest[]): Promise<Posterior[]>
  commit(batch: readonly CommitRequest[]): Promise<Drafts[]>
  sessionInfo(session: SessionHandle): SessionInfo
  /** Waits for a running call, then frees; calling it again does nothing. A model's sessions keep it alive until they are closed. */
  close(handle: ModelHandle | SessionHandle): Promise<void>
  /** Of Medusa heads, on the models that inference uses. */
  readonly training: NativeTraining
  /** Single operations, for test/ and bench/ only. */
  readonly ops: Readonly<Record<string, (...args: never[]) => unknown>>
}

const require = createRequire(import.meta.url)

/** The package's folder, from src/ and from dist/src/ alike. */
export function packageRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url))
  return resolve(here, here.endsWith(join('dist', 'src')) ? '../..' : '..')
}

let loaded: Native | undefined
let loadedFrom: string | null = null

/** The file that `native()` loaded; null before. */
export function addonFile(): string | null {
  return loadedFrom
}

/**
 * The addon, loaded once per environment.
 *
 * @throws {GorgonError} ERR_ADDON_MISSING when no binary loads: the message lists what was tried.
 */
export function native(): Native {
  if (loaded) return loaded
  const override = process.env['GORGON_ADDON']
  const candidates = override
    ? [resolve(override)]
    : [join(packageRoot(), 'build', 'Release', 'gorgon.node'), join(packageRoot(), 'build', 'Debug', 'gorgon.node')]
  const failures: string[] = []
  for (const file of candidates) {
    try {
      loaded = liftNativeErrors(require(file) as Native)
      loadedFrom = file
      return loaded
    } catch (error) {
      failures.push(`${file}: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`)
    }
  }
  throw new GorgonError(
    'ERR_ADDON_MISSING',
    `The native addon could not be loaded. Build it with "npm run build:native" (needs CMake 3.18 or newer and a C++17 compiler). Tried:\n  ${failures.join('\n  ')}`,
    { tried: candidates },
  )
}
