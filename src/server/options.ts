// Schemas of everything a user may set on a server; types inferred from them.
import { isIP } from 'node:net'
import { z } from 'zod'
import type { Engine, LoadProgress } from '../index.js'
import { flag, integer, parse, secret, strict, text, violate } from '../schema.js'
import type { Credentials, Principal } from './auth.js'
import type { Logger } from './log.js'

/** As `authenticate` names one; its priority is at most 0 unless it says more. */
export type KnownPrincipal = Pick<Principal, 'id'> & Partial<Principal>

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const
/** The least that is logged. */
export type LogLevel = (typeof LOG_LEVELS)[number]

/** An engine, or one that is still loading. */
export type EngineSource = Engine | Promise<Engine>

const ENGINE_FORMS = 'an engine, a promise of one, or an object from model names to such'
const KEY_FORMS =
  'a string of at least 8 characters without spaces, or { key, name, maxPriority } with such a key and a maxPriority from -10 to 10'
const ORIGIN_FORMS = 'an origin such as "https://app.example", without a path, or "*"'
const PROXY_FORMS = 'an IP address, or a network such as "10.0.0.0/8"'
/** Characters of a key, at least. */
export const SHORTEST_KEY = 8

const isThenable = (value: object): boolean => typeof (value as Partial<Promise<unknown>>).then === 'function'
const isEngine = (value: object): boolean => typeof (value as Partial<Engine>).generate === 'function'

function isSource(value: unknown): value is EngineSource {
  return typeof value === 'object' && value !== null && (isThenable(value) || isEngine(value))
}

function isEngines(value: unknown): boolean {
  if (isSource(value)) return true
  if (typeof value !== 'object' || value === null) return false
  const sources = Object.values(value)
  return sources.length > 0 && sources.every(isSource)
}

const keyText = () => z.string(KEY_FORMS).min(SHORTEST_KEY, KEY_FORMS).regex(/^\S+$/, KEY_FORMS)

const Key = secret(
  z.union([
    keyText(),
    strict({
      /** What a client sends. */
      key: keyText(),
      /**
       * Who its holder is, to limits, stored responses, resume tokens and logs; no two keys have the same. Default: a short hash of the key.
       */
      name: text('a name').optional(),
      /** The highest priority its requests may have. -10 to 10; default 0. */
      maxPriority: integer(-10, 10).default(0),
    }),
  ]),
  KEY_FORMS,
)

function isOrigin(value: string): boolean {
  if (value === '*') return true
  try {
    return new URL(value).origin === value
  } catch {
    return false
  }
}

function isNetwork(value: string): boolean {
  const [address = '', bits = '0', ...rest] = value.split('/')
  const most = isIP(address) === 6 ? 128 : 32
  return isIP(address) !== 0 && rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= most
}

const functionOf = <F>() => z.custom<F>((value) => typeof value === 'function', 'a function')

const Limits = strict({
  /** Of a request's body. At least 1; default 4 MiB. */
  bodyBytes: integer(1).default(4 * 1024 * 1024),
  /** Of a WebSocket message. At least 1024; default 4 MiB. */
  messageBytes: integer(1024).default(4 * 1024 * 1024),
  /** Open at once. At least 1; default 1024. */
  connections: integer(1).default(1024),
  /** Open at once from one address; of IPv6, from one /64. At least 1; default 128. */
  connectionsPerAddress: integer(1).default(128),
  /** Requests or responses at once on one connection. At least 1; default 8. */
  perConnection: integer(1).default(8),
  /** Of one key, or of one address without keys. Each choice of a request counts as a request. */
  perKey: strict({
    /** Requests at once, those that wait in the queue included. At least 1; default 64. */
    concurrent: integer(1).default(64),
    /** Requests begun in a minute; 0 is any number. At least 0; default 0. */
    requestsPerMinute: integer(0).default(0),
    /** Conversations open, as of `sessions` below. At least 1; default 64. */
    sessions: integer(1).default(64),
  }).prefault({}),
  /** Conversations open at once, those of broken connections and those kept for responses included: each keeps a cache. At least 1; default 256. */
  sessions: integer(1).default(256),
  /** For a request's headers to arrive. At least 100, in milliseconds; default 10000. */
  headersMs: integer(100).default(10_000),
  /** For a request's body to arrive, and for the last of an answer to leave. At least 100, in milliseconds; default 30000. */
  bodyMs: integer(100).default(30_000),
  /** For a socket's `hello`. At least 100, in milliseconds; default 5000. */
  helloMs: integer(100).default(5000),
  /** Between signs of life on a stream on which nothing else is sent. At least 100, in milliseconds; default 20000. */
  heartbeatMs: integer(100).default(20_000),
  /** After which a connection without requests is closed. At least 100, in milliseconds; default 300000. */
  idleMs: integer(100).default(300_000),
  /** How long what is resumable outlives its connection; 0 is not at all. At least 0, in milliseconds; default 30000. */
  resumeMs: integer(0).default(30_000),
  /** After which a reader who takes nothing is cut off. At least 100, in milliseconds; default 10000. */
  stallMs: integer(100).default(10_000),
  /** Generations of one request: choices times prompts. 1 to 1024; default 8. */
  choices: integer(1, 1024).default(8),
})

/** A server, around engines that its caller loads and closes. */
export const ServerOptions = strict({
  /** What is served: an engine, or several by the names that requests call them; each may still be loading. */
  engine: z.custom<EngineSource | Readonly<Record<string, EngineSource>>>(isEngines, ENGINE_FORMS),
  /** Where to listen: a name or an address, of IPv6 with brackets or without. Default `127.0.0.1`: this machine alone. */
  host: text('a host name or an address')
    .transform((host) => host.replace(/^\[(.*)\]$/, '$1'))
    .default('127.0.0.1'),
  /** 0 is any that is free. 0 to 65535; default 8080. */
  port: integer(0, 65_535).default(8080),
  /** Keys of which each request must carry one. Default none: anybody who can connect is served. */
  keys: z.array(Key, 'an array of keys').readonly().default([]),
  /** Decides instead of `keys` who a request is from; null refuses it. */
  authenticate:
    functionOf<(credentials: Credentials) => KnownPrincipal | null | Promise<KnownPrincipal | null>>().optional(),
  /** Listen beyond this machine although anybody may then use the server. Default false. */
  allowPublic: flag().default(false),
  /** Web pages of these origins may use the server, beside its own; `*` is any. Default none. */
  origins: z.array(z.string(ORIGIN_FORMS).refine(isOrigin, ORIGIN_FORMS), 'an array of origins').readonly().default([]),
  /**
   * Balancers before this server, whose X-Forwarded-For says who the client is, and whose connections are not counted as one address's.
   * Default none.
   */
  proxies: z
    .array(z.string(PROXY_FORMS).refine(isNetwork, PROXY_FORMS), 'an array of addresses')
    .readonly()
    .default([]),
  limits: Limits.prefault({}),
  /** How long requests that run get when the server closes. At least 0, in milliseconds; default 30000. */
  drainMs: integer(0).default(30_000),
  /** Serve the playground at `/`. Default true. */
  playground: flag().default(true),
  /** Default: nothing is logged. */
  logger: z
    .custom<Logger>(
      (value) => typeof (value as Partial<Logger> | null)?.info === 'function',
      'a logger with debug, info, warn and error',
    )
    .optional(),
  /** Put prompts and texts into the log. Default false. */
  logContent: flag().default(false),
  /** How far the engines' loading is, for `/health/ready`. */
  loading: functionOf<() => LoadProgress | undefined>().optional(),
}).superRefine(({ keys, authenticate }, context) => {
  const names = keys.map((entry) => (typeof entry === 'string' ? undefined : entry.name))
  for (const [i, name] of names.entries()) {
    const first = names.indexOf(name)
    if (name === undefined || first === i) continue
    violate(
      context,
      ['keys', i, 'name'],
      `is that of keys[${first}] too. Give each its own: limits and stored responses are by name, so both would share them.`,
    )
  }
  const texts = keys.map((entry) => (typeof entry === 'string' ? entry : entry.key))
  for (const [i, key] of texts.entries()) {
    const first = texts.indexOf(key)
    if (first === i) continue
    violate(context, ['keys', i], `is the key of keys[${first}] too. Give each holder its own, once.`, {
      isSecret: true,
    })
  }
  if (keys.length > 0 && authenticate) {
    violate(context, ['authenticate'], 'is given beside keys. Use one of the two: authenticate decides alone.')
  }
})
export type ServerOptionsInput = z.input<typeof ServerOptions>
export type ServerOptions = z.output<typeof ServerOptions>
export type ServerLimits = ServerOptions['limits']

/** @throws {GorgonError} ERR_OPTION naming path, value and what is allowed. */
export function parseServerOptions(input: ServerOptionsInput): ServerOptions {
  return parse(ServerOptions, input)
}
