// The native protocol as schemas: every frame a client may send and every frame it may get. PROTOCOL.md tells the story.
import { z } from 'zod'
import { Message, requestShape, SessionOptions } from '../options.js'
import { flag, integer, list, oneOf, strict } from '../schema.js'

// ---------------------------------------------------------------------------------------------------------------------------------
// From the client. Each frame is one JSON object in one text message.
// ---------------------------------------------------------------------------------------------------------------------------------

const NAME_FORMS = 'a string of 1 to 128 characters'
const name = () => z.string(NAME_FORMS).min(1, NAME_FORMS).max(128, NAME_FORMS)

const SEED_FORMS = `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, or a larger one below 2^64 as a string`

/** Numbers of JSON are exact below 2^53 only: a larger seed travels as its digits. */
export const Seed = z
  .union(
    [
      z.int(SEED_FORMS).min(0, SEED_FORMS),
      z
        .string(SEED_FORMS)
        .regex(/^(0|[1-9]\d{0,19})$/, { error: SEED_FORMS, abort: true })
        .refine((digits) => BigInt(digits) < 2n ** 64n, SEED_FORMS),
    ],
    { error: SEED_FORMS },
  )
  .transform((seed) => BigInt(seed))

/** A generation's options that can be written as JSON: all but callbacks, signals and what the server decides. */
export const RequestOptions = strict({ ...requestShape, seed: Seed.optional() })
export type RequestOptionsInput = z.input<typeof RequestOptions>

const INPUT_FORMS = 'text, an array of token ids, or an array of { role, content }'

/** Text, token ids used as they are, or the messages of a chat. */
export const Input = z.union([z.string(), list(z.int().min(0), INPUT_FORMS, 1), list(Message, INPUT_FORMS, 1)], {
  error: INPUT_FORMS,
})

/** The first frame, within `limits.helloMs`. */
const Hello = strict({
  type: z.literal('hello'),
  /** Who speaks, for the server's log: a name and a version. */
  client: z.string('a string').max(256, 'at most 256 characters').optional(),
  /** The key, where the handshake could carry no Authorization header (a browser's cannot). */
  token: z.string('a string').max(1024, 'at most 1024 characters').optional(),
  /** `credit`: the server sends deltas only as far as the client allows, see `credit`. Default `auto`. */
  flow: oneOf(['auto', 'credit']).default('auto'),
})

/** Starts a response. */
const Generate = strict({
  type: z.literal('generate'),
  /** Of the response, chosen by the client; free again when it has ended. */
  id: name(),
  /** Default: the server's only model, or its first. */
  model: name().optional(),
  input: Input,
  /** The next turn of a session that this connection opened. */
  session: name().optional(),
  options: RequestOptions.prefault({}),
  /** Deltas allowed before the first `credit`; with `flow: "credit"` only. Default 16. */
  credit: integer(0, 1_000_000).default(16),
  /** Least time between two deltas: what comes sooner is put together. Default 0, a delta for each step. */
  minIntervalMs: integer(0, 60_000).default(0),
  /** Say which tokens were drafted, by which depth, in which step: `spans`. Default true. */
  provenance: flag().default(true),
  /** Send token ids. Default false. */
  ids: flag().default(false),
  /** Keep the response alive for `limits.resumeMs` when the connection breaks, for `resume`. Default false. */
  resumable: flag().default(false),
})

/** Ends a response within a step; its `done` says `aborted`. An id that has ended, or never was, changes nothing. */
const Cancel = strict({ type: z.literal('cancel'), id: name() })

/** Allows so many more deltas. */
const Credit = strict({ type: z.literal('credit'), id: name(), chunks: integer(1, 1_000_000) })

/** Goes on with a response of a broken connection. */
const Resume = strict({
  type: z.literal('resume'),
  id: name(),
  /** From its `accepted`. */
  token: name(),
  /** The last `seq` received; 0 for none. */
  afterSeq: integer(0),
  /**
   * Deltas allowed after that one, those that are sent again among them; with `flow: "credit"` only. It replaces what was allowed before: a
   * `credit` may have been lost with the connection. Default 16.
   */
  credit: integer(0, 1_000_000).default(16),
})

/** Opens a conversation whose cache stays on the server, as long as this connection lasts. */
const SessionOpen = strict({
  type: z.literal('session.open'),
  /** Chosen by the client; free again when it is closed. */
  session: name(),
  model: name().optional(),
  options: SessionOptions.prefault({}),
  /** Keep it for `limits.resumeMs` when the connection breaks, for `session.resume`. Default false. */
  resumable: flag().default(false),
})

/** Goes on with a session of a broken connection. */
const SessionResume = strict({ type: z.literal('session.resume'), session: name(), token: name() })

/** Ends a session and the turn that runs in it. */
const SessionClose = strict({ type: z.literal('session.close'), session: name() })

/** Answered by `pong` with the same t. */
const Ping = strict({ type: z.literal('ping'), t: z.number('a number') })

/** No more requests will come: the server ends what runs, then closes with 1000. */
const Finish = strict({ type: z.literal('finish') })

export const ClientFrame = z.discriminatedUnion('type', [
  Hello,
  Generate,
  Cancel,
  Credit,
  Resume,
  SessionOpen,
  SessionResume,
  SessionClose,
  Ping,
  Finish,
])
/** As a client writes it. */
export type ClientFrameInput = z.input<typeof ClientFrame>
/** With defaults. */
export type ClientFrame = z.output<typeof ClientFrame>
export type GenerateFrame = z.output<typeof Generate>
export type ClientFrameOf<Type extends ClientFrame['type']> = Extract<ClientFrame, { type: Type }>

// ---------------------------------------------------------------------------------------------------------------------------------
// From the server. Not parsed on the way out; tests hold every frame sent against these.
// ---------------------------------------------------------------------------------------------------------------------------------

const count = () => z.int().min(0)
const milliseconds = () => z.number().min(0)
/** Of a response's deltas and its end: from 1, rising by 1. */
const seq = () => z.int().min(1)

const Welcome = z.strictObject({
  type: z.literal('welcome'),
  /** Of this connection, for the server's log. */
  connection: z.string(),
  server: z.string(),
  models: z.array(z.strictObject({ id: z.string(), context: count(), chat: z.boolean() })),
  limits: z.strictObject({
    messageBytes: count(),
    /** Responses at once. */
    perConnection: count(),
    idleMs: count(),
    resumeMs: count(),
  }),
  /** The server pings this often, and gives up after two that go unanswered. */
  heartbeatMs: count(),
})

/** The answer to `generate` and to `resume`: the first frame of a response. */
const Accepted = z.strictObject({
  type: z.literal('accepted'),
  id: z.string(),
  model: z.string(),
  /** With which the same request gives the same tokens; null for greedy decoding. A string when it is no safe integer. */
  seed: z.union([z.int(), z.string()]).nullable(),
  /** With which `resume` finds it again; of a resumable one. */
  token: z.string().optional(),
})

/** How many wait before this one; sent when it changes. */
const Queued = z.strictObject({ type: z.literal('queued'), id: z.string(), position: count() })

/** How much of the prompt is worked through. */
const Prefill = z.strictObject({
  type: z.literal('prefill'),
  id: z.string(),
  /** Of `total`, in token-layers. */
  done: count(),
  total: count(),
  /** That are worked through, as `usage.prompt` says in the end. */
  tokens: count(),
  /** Rows that earlier turns had left, for which there is nothing to do. */
  cached: count(),
})

const Logprob = z.strictObject({
  id: z.int(),
  token: z.string(),
  logprob: z.number(),
  top: z.array(z.strictObject({ id: z.int(), token: z.string(), logprob: z.number() })),
})

/** What one step added, or several that were put together. */
const Delta = z.strictObject({
  type: z.literal('delta'),
  id: z.string(),
  seq: seq(),
  text: z.string(),
  /** Tokens. */
  n: count(),
  /** How many of them were drafted. */
  drafted: count(),
  /** Milliseconds since the request was taken, of the last step in it. */
  at: milliseconds(),
  /**
   * By step: how many UTF-16 units of `text` each token released, in order. The first token of a step is the base model's own, the one at
   * index d was drafted by Medusa head d and accepted.
   */
  spans: z.array(z.strictObject({ step: count(), chars: z.array(count()) })).optional(),
  ids: z.array(z.int()).optional(),
  logprobs: z.array(Logprob).optional(),
})

const Percentiles = z.strictObject({
  p50: milliseconds(),
  p90: milliseconds(),
  p99: milliseconds(),
  max: milliseconds(),
})

/** What the library's `Result` says, but for its text and tokens. */
export const Summary = z.strictObject({
  finish: z.enum(['stop', 'length', 'aborted', 'timeout']),
  stopString: z.string().optional(),
  seed: z.union([z.int(), z.string()]).nullable(),
  usage: z.strictObject({ prompt: count(), cached: count(), completion: count() }),
  timing: z.strictObject({
    queueMs: milliseconds(),
    prefillMs: milliseconds(),
    ttftMs: milliseconds().nullable(),
    decodeMs: milliseconds(),
    tpotMs: milliseconds().nullable(),
    e2eMs: milliseconds(),
    tokensPerSecond: milliseconds(),
    gapMs: Percentiles.nullable(),
  }),
  speculation: z.strictObject({
    used: z.boolean(),
    tree: z.string(),
    nodes: count(),
    sizes: z.array(z.strictObject({ nodes: count(), steps: count() })),
    steps: count(),
    drafted: count(),
    accepted: count(),
    tokensPerStep: z.number(),
    byDepth: z.array(z.strictObject({ offered: count(), accepted: count() })),
    lengths: z.array(count()),
    accept: z.enum(['exact', 'typical']),
    gate: z.strictObject({
      decision: z.enum(['speculated', 'plain', 'mixed', 'off']),
      reason: z.string(),
      expectedSpeedup: z.number().nullable(),
      plainSteps: count(),
      probes: count(),
    }),
  }),
  kv: z.strictObject({
    policy: z.enum(['full', 'snapkv', 'h2o', 'streaming']),
    promptTokens: count(),
    keptTokens: count(),
    bytes: count(),
    fullBytes: count(),
    /** With `options.kv.reportKept`: `[layer][kvHead]`, positions kept, window excluded. */
    kept: z.array(z.array(z.array(count()))).optional(),
  }),
})
export type Summary = z.output<typeof Summary>

/** The end of a response that gave a result. */
const Done = z.strictObject({ type: z.literal('done'), id: z.string(), seq: seq(), ...Summary.shape })

/** The end of the response with this id; without one, about a frame that belongs to none. */
const Failed = z.strictObject({
  type: z.literal('error'),
  id: z.string().optional(),
  /** Of a response that was accepted. */
  seq: seq().optional(),
  /** Of a session, when the frame was about one. */
  session: z.string().optional(),
  /** ERRORS.md has them. */
  code: z.string(),
  message: z.string(),
  /** The field it is about. */
  param: z.string().optional(),
  /** Whether the same request may succeed later. */
  retryable: z.boolean(),
  retryAfterMs: count().optional(),
})

/** The answer to `session.open` and to `session.resume`. */
const SessionOpened = z.strictObject({
  type: z.literal('session.opened'),
  session: z.string(),
  model: z.string(),
  /** With which `session.resume` finds it again; of a resumable one. */
  token: z.string().optional(),
})
const SessionClosed = z.strictObject({ type: z.literal('session.closed'), session: z.string() })

/** The server stops: no new requests are taken, those that run have this long. */
const Draining = z.strictObject({ type: z.literal('draining'), deadlineMs: count() })

const Pong = z.strictObject({ type: z.literal('pong'), t: z.number() })

export const ServerFrame = z.discriminatedUnion('type', [
  Welcome,
  Accepted,
  Queued,
  Prefill,
  Delta,
  Done,
  Failed,
  SessionOpened,
  SessionClosed,
  Draining,
  Pong,
])
export type ServerFrame = z.output<typeof ServerFrame>
export type ServerFrameOf<Type extends ServerFrame['type']> = Extract<ServerFrame, { type: Type }>

/** Both directions as JSON Schema (draft 2020-12), for clients in other languages. */
export function protocolJsonSchema(): { readonly client: object; readonly server: object } {
  return {
    client: z.toJSONSchema(ClientFrame, { io: 'input', unrepresentable: 'any' }),
    server: z.toJSONSchema(ServerFrame),
  }
}
