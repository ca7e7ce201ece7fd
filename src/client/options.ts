// What a caller may set, and what a request of theirs becomes on the wire.
import type { PrefillProgress } from '../options.js'
import type { ClientFrameInput, RequestOptionsInput, ServerFrameOf } from '../server/protocol.js'
import { ClientError } from './errors.js'
import type { StandardSocketClass } from './socket.js'

/** One message of a chat. */
export interface Message {
  /** `system`, `user`, `assistant`, or another role of the model's template. */
  readonly role: string
  readonly content: string
}

/** Text; token ids, used as they are; or the messages of a chat. */
export type Prompt = string | readonly number[] | Int32Array | readonly Message[]

/** What a session's `send` takes: what goes on as it is, or the next message or messages of a chat. */
export type SessionInput = Prompt | Message

export type GenerateFrame = Extract<ClientFrameInput, { type: 'generate' }>
export type SessionOptions = NonNullable<Extract<ClientFrameInput, { type: 'session.open' }>['options']>

/** How the client comes back after a broken connection. */
export interface ReconnectOptions {
  /** Failures in a row before it rests, until the next request. At least 0; default 8, or 3 as long as it has never been connected. */
  readonly retries?: number
  /** Before the first attempt; each further one waits twice as long, and half of it is chance. Default 100. */
  readonly minDelayMs?: number
  /** Default 5000. */
  readonly maxDelayMs?: number
}

export type ClientState =
  /** Not connected yet. */
  | 'connecting'
  /** Requests are sent at once. */
  | 'open'
  /** The connection broke; it is being made again, and what ran goes on then. */
  | 'reconnecting'
  /** The server stops: what runs there ends there, new requests go over another connection. */
  | 'draining'
  /** Not connected, and nothing is tried: attempts were given up, or the server closed an idle connection. The next request connects. */
  | 'idle'
  /** By `close()` or the client's signal; for good. */
  | 'closed'

export interface StateChange {
  readonly state: ClientState
  /** Why, where something went wrong. */
  readonly error?: ClientError
}

export interface ConnectOptions {
  /** A key of the server. In Node it travels in the handshake; a browser's sockets can carry none, so there it is in the first message. */
  readonly key?: string
  /** Closes the client at once: all that runs rejects with its reason. */
  readonly signal?: AbortSignal
  /** False: a broken connection fails what ran over it. The next request connects, with either. */
  readonly reconnect?: ReconnectOptions | false
  /**
   * How often a request is tried again without any progress: when the server has no room for it (ERR_QUEUE_FULL, ERR_DRAINING, ERR_LOADING
   * and the like, after the time it names, unless that is longer than `reconnect.maxDelayMs`) or connections break under it. At least 0;
   * default 4.
   */
  readonly retries?: number
  /** Silence of the server after which it is asked for a sign of life; after twice that the connection counts as broken. Default: the server's. */
  readonly heartbeatMs?: number
  /** From the first attempt at a connection to the server's welcome. Default 10000. */
  readonly openTimeoutMs?: number
  /**
   * Put into the URL's query, for balancers that hash on it: all connections of one client then reach the same replica, which can resume what
   * it has. Default: random. False: none.
   */
  readonly affinity?: string | false
  /** Who this is, in the server's log. Default `gorgon`. */
  readonly client?: string
  /** Told of each change of `client.state`. */
  readonly onState?: (change: StateChange) => void
  /** A class like the DOM's WebSocket, to be used in place of the platform's. */
  readonly WebSocket?: StandardSocketClass
}

/** What `onRestart` is told. */
export interface Restart {
  /** Tokens delivered so far, which are made again and not delivered twice. */
  readonly tokens: number
  /** What became of the first attempt. */
  readonly error: ClientError
}

/** One generation: what the library takes, and how it travels. Options left out are the server's defaults. */
export interface GenerateOptions extends Omit<RequestOptionsInput, 'seed'> {
  /** As the library's; one of 2^53 or more as a bigint or its digits. */
  readonly seed?: number | bigint | string
  /** Default: the server's first. Of a session, it is chosen when that is opened. */
  readonly model?: string
  /** The server keeps it for a while when the connection breaks, and the client goes on with it. False frees it at once. Default true. */
  readonly resumable?: boolean
  /** `spans` of chunks: which tokens were drafted, by which depth, in which step. Default true. */
  readonly provenance?: boolean
  /** Token ids of chunks and of the result. Default false. */
  readonly ids?: boolean
  /** Least time between two chunks: what comes sooner is put together. Default 0: a chunk for each step. */
  readonly minIntervalMs?: number
  /** Chunks held for a slow consumer before the server pauses the generation. At least 1; default 64. */
  readonly highWaterMark?: number
  /** Ends the generation within a step. */
  readonly signal?: AbortSignal
  /** What the result does on abort: reject, or resolve with what there is. Default `throw`. */
  readonly onAbort?: 'throw' | 'return'
  /** Called when it has to wait at the server, and when its place in the queue changes. */
  readonly onQueue?: (progress: { readonly position: number }) => void
  /** Called as the prompt is worked through, as the library's is. */
  readonly onPrefill?: (progress: PrefillProgress) => void
  /** Called when no server has it any more, and it is generated again; see `Generation`. */
  readonly onRestart?: (restart: Restart) => void
}

/** The parts of a request's options: what the client itself does, and what goes into the frame. */
export interface RequestPlan {
  readonly local: Pick<GenerateOptions, 'signal' | 'onQueue' | 'onPrefill' | 'onRestart'> & {
    readonly onAbort: 'throw' | 'return'
    readonly highWaterMark: number
    readonly resumable: boolean
    readonly ids: boolean
  }
  readonly frame: Pick<GenerateFrame, 'model' | 'minIntervalMs' | 'provenance' | 'ids' | 'resumable'>
  readonly options: NonNullable<GenerateFrame['options']>
}

/** @throws {ClientError} ERR_OPTION. What the server checks is left to it. */
export function planOf(given: GenerateOptions): RequestPlan {
  const { signal, onAbort = 'throw', onQueue, onPrefill, onRestart, highWaterMark = 64, ...sent } = given
  const { model, resumable = true, provenance, ids = false, minIntervalMs, seed, ...options } = sent
  if (onAbort !== 'throw' && onAbort !== 'return') refuse('onAbort', onAbort, '"throw" or "return"')
  return {
    local: {
      onAbort,
      highWaterMark: whole('highWaterMark', highWaterMark, 1),
      resumable,
      ids,
      ...defined({ signal, onQueue, onPrefill, onRestart }),
    },
    frame: { ids, resumable, ...defined({ model, provenance, minIntervalMs }) },
    options: { ...options, ...(seed !== undefined && { seed: writtenSeed(seed) }) } as RequestPlan['options'],
  }
}

/** Numbers of JSON are exact below 2^53 only. */
function writtenSeed(seed: number | bigint | string): number | string {
  if (typeof seed !== 'bigint') return seed
  return seed <= Number.MAX_SAFE_INTEGER ? Number(seed) : String(seed)
}

/** As JSON writes it. */
export function writtenInput(input: SessionInput): GenerateFrame['input'] {
  if (typeof input === 'string') return input
  if ('role' in input) return [input]
  return Array.from<number | Message>(input) as GenerateFrame['input']
}

/** Connection options with defaults. */
export interface ClientPlan {
  readonly key: string | undefined
  readonly reconnect: {
    readonly retries: number
    readonly firstRetries: number
    readonly minDelayMs: number
    readonly maxDelayMs: number
  }
  readonly retries: number
  readonly heartbeatMs: number | undefined
  readonly openTimeoutMs: number
  readonly client: string
  readonly onState: ((change: StateChange) => void) | undefined
}

/** Timers take a longer time for none at all. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

const CONNECT_OPTIONS: readonly (keyof ConnectOptions)[] = [
  'key',
  'signal',
  'reconnect',
  'retries',
  'heartbeatMs',
  'openTimeoutMs',
  'affinity',
  'client',
  'onState',
  'WebSocket',
]

/** @throws {ClientError} ERR_OPTION. */
export function clientPlanOf(given: ConnectOptions): ClientPlan {
  for (const name of Object.keys(given)) {
    if (!CONNECT_OPTIONS.includes(name as keyof ConnectOptions)) {
      throw optionError(name, given, `"${name}" is not an option of connect(). Known: ${CONNECT_OPTIONS.join(', ')}.`)
    }
  }
  const { reconnect = {} } = given
  const { retries, minDelayMs = 100, maxDelayMs = 5000 } = reconnect === false ? { retries: 0 } : reconnect
  return {
    key: given.key,
    reconnect: {
      retries: whole('reconnect.retries', retries ?? 8, 0),
      firstRetries: retries ?? 3,
      minDelayMs: milliseconds('reconnect.minDelayMs', minDelayMs, 0),
      maxDelayMs: milliseconds('reconnect.maxDelayMs', maxDelayMs, 0),
    },
    retries: whole('retries', given.retries ?? 4, 0),
    heartbeatMs: given.heartbeatMs === undefined ? undefined : milliseconds('heartbeatMs', given.heartbeatMs, 1),
    openTimeoutMs: milliseconds('openTimeoutMs', given.openTimeoutMs ?? 10_000, 1),
    client: given.client ?? 'gorgon',
    onState: given.onState,
  }
}

function whole(path: string, value: number, minimum: number): number {
  const isWhole = Number.isInteger(value) || value === Number.POSITIVE_INFINITY
  return isWhole && value >= minimum ? value : refuse(path, value, `a whole number, at least ${minimum}`)
}

function milliseconds(path: string, value: number, minimum: number): number {
  const isTime = Number.isInteger(value) && value >= minimum && value <= LONGEST_TIMER_MS
  return isTime ? value : refuse(path, value, `a whole number from ${minimum} to ${LONGEST_TIMER_MS}`)
}

function refuse(path: string, value: unknown, allowed: string): never {
  throw optionError(path, value, `${path} is ${String(value)}: use ${allowed}.`)
}

function optionError(path: string, value: unknown, message: string): ClientError {
  return new ClientError('ERR_OPTION', message, { details: { path, value } })
}

/** Without what is undefined. */
function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}

/** A model that the server has. */
export type ModelInfo = ServerFrameOf<'welcome'>['models'][number]
