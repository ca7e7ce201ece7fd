// Flags as data: how each is spelled, which option it sets, and the reading of what a user gave.
import { Option } from 'commander'
import {
  type CalibrateOptions,
  parseCalibrateOptions,
  parseTrainOptions,
  TRAINING_DEFAULTS,
  type TrainOptions,
} from '../../heads/index.js'
import {
  type GenerateOptions,
  GorgonError,
  isGorgonError,
  type LoadOptions,
  parseGenerateOptions,
  parseLoadOptions,
} from '../index.js'
import { suggest } from '../schema.js'
// Not from the server's index: of all commands only `serve` needs what a server is made of.
import { parseServerOptions, type ServerOptionsInput } from '../server/options.js'
import { bytes } from './format.js'
import { readTreeFile } from './tree-file.js'

/** Bad arguments; the message says what is wrong and what is allowed. */
export class UsageError extends GorgonError {
  /** Nothing sensible was asked for: the whole help is the answer. */
  readonly isLost: boolean

  constructor(
    message: string,
    { cause, isLost = false }: { readonly cause?: unknown; readonly isLost?: boolean } = {},
  ) {
    super('ERR_OPTION', message, {}, cause)
    this.isLost = isLost
  }
}

/**
 * The options object a flag belongs to. Speculation and cache are the engine's here, so that rules between their fields are checked at once.
 * `serving` are the engine's too, of no use but to a server.
 */
type Target = 'load' | 'serving' | 'generate' | 'server' | 'train' | 'calibrate'

interface Flag {
  readonly target: Target
  /** Heading in the help. */
  readonly group: string
  /** As commander takes it. */
  readonly flags: string
  /** The options it sets; the default shown is that of the first. */
  readonly paths: readonly [string, ...string[]]
  /** Text to what the schema checks; what cannot be read is handed on as it is, for the schema to refuse. */
  readonly read: (text: string) => unknown
  readonly help: string
  /** What is allowed, where the option is spelled otherwise than the flag. */
  readonly allowed?: string | undefined
}

const asText = (text: string): unknown => text
const asNumber = (text: string): unknown => (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : text)
/** Seeds have 64 bits: more than a number holds. */
const asSeed = (text: string): unknown => {
  if (!/^\d+$/.test(text)) return text
  return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text)
}
/** Bytes: `24GB` is 24e9, `20GiB` is 20 * 2 ** 30. */
const asBytes = (text: string): unknown => {
  const [, count, prefix, binary] = /^(\d+(?:\.\d+)?) ?(?:([kmgt]?)(i?)b)?$/i.exec(text) ?? []
  if (count === undefined || (binary && !prefix)) return text
  return Math.floor(Number(count) * (binary ? 1024 : 1000) ** ' kmgt'.indexOf((prefix || ' ').toLowerCase()))
}
const asMilliseconds = (seconds: string): unknown => {
  const value = asNumber(seconds)
  return typeof value === 'number' ? Math.round(value * 1000) : value
}
const asTree = (text: string): unknown =>
  /^\d+$/.test(text) ? Number(text) : text.endsWith('.json') ? readTreeFile(text) : text
const asNumbers = (text: string): unknown => text.split(',').map(asNumber)
const asHeads = (text: string): unknown => (text === 'none' ? false : text)

/** How a default is written that the flag has in other units than the option. */
const SHOWN: ReadonlyMap<Flag['read'], (value: number) => string> = new Map([
  [asBytes, bytes],
  [asMilliseconds, (value: number) => String(value / 1000)],
])

type Line = readonly [flags: string, path: string | Flag['paths'], read: Flag['read'], help: string, allowed?: string]

const group = (target: Target, heading: string, lines: readonly Line[]): Flag[] =>
  lines.map(([flags, path, read, help, allowed]) => {
    const paths = typeof path === 'string' ? ([path] as const) : path
    return { target, group: heading, flags, paths, read, help, allowed }
  })

const TREES = 'auto, the name of a tree, a number of nodes, chain:N, or a .json file with the paths of one'
const SIZES = 'a number of bytes, at least 1, or a size like 24GB or 20GiB'
const BODY_SIZES = 'a number of bytes from 1024 to 2147483647, or a size like 4MiB'
/** One flag for both ways in. */
const BODY_LIMITS = ['limits.bodyBytes', 'limits.messageBytes'] as const
const SEEDS = 'a whole number from 0 to 2^64 - 1'
const HOSTS = 'an address of this machine; others than 127.0.0.1 with keys (--api-key-file), or with --allow-public'
const ORIGINS = 'origins such as https://app.example, without a path, or *'
const PROXIES = 'IP addresses, or networks such as 10.0.0.0/8'
const SECONDS = 'a number of seconds, at least 0'
const TEMPERATURES = '0 for greedy decoding, or numbers from 0.001 to 100, up to 8 between commas'

/** Where a model comes from and runs: the same in every command that opens one. */
const MODEL: Line = ['--model <DIR|ID>', 'model', asText, 'model folder; the demo model when left out']
const BACKEND: Line = ['--backend <auto|cpu|cuda>', 'backend', asText, 'what computes']
const DTYPE: Line = ['--dtype <auto|f32|bf16|f16>', 'dtype', asText, 'of weights; auto is as in the checkpoint']
const RUNS_ON: readonly Line[] = [
  ['--threads <N>', 'threads', asNumber, 'compute threads; 0 is one per physical core'],
  ['--device <N>', 'device', asNumber, 'which CUDA device, as "gorgon doctor" numbers them; 0 when left out'],
  ['--device-memory <SIZE>', 'deviceMemory', asBytes, 'most to use of its memory; what is free when left out', SIZES],
]
const WEIGHTS: Line = [
  '--weights <full|int8>',
  'weights',
  asText,
  'full is in that dtype; int8 has half the bytes of bf16, and less precision',
]
const KV: readonly Line[] = [
  ['--kv <snapkv|full|h2o|streaming>', 'kv.policy', asText, 'which rows of the prompt are kept'],
  ['--budget <N>', 'kv.budget', asNumber, 'rows kept per layer and KV head, window included'],
  ['--window <N>', 'kv.window', asNumber, 'last prompt tokens: always kept, and their queries vote'],
  ['--pool <max|avg>', 'kv.pool', asText, 'kind of smoothing over votes'],
  ['--pool-size <N>', 'kv.poolSize', asNumber, 'width of the smoothing; odd'],
]

/** Every flag that sets an option. */
const FLAGS: readonly Flag[] = [
  ...group('load', 'Model:', [
    MODEL,
    ['--heads <DIR|none>', 'heads', asHeads, "Medusa heads; the model's own when left out"],
    BACKEND,
    DTYPE,
    WEIGHTS,
    ...RUNS_ON,
    ['--max-context <N>', 'limits.maxContext', asNumber, "tokens of prompt and output; the model's own when left out"],
  ]),
  ...group('generate', 'Decoding:', [
    ['--max-tokens <N>', 'maxTokens', asNumber, 'most tokens to generate'],
    ['--temperature <T>', 'temperature', asNumber, '0 is greedy'],
    ['--top-p <P>', 'topP', asNumber, 'sample among the likeliest tokens that make up P; 1 is off'],
    ['--top-k <K>', 'topK', asNumber, 'sample among the K likeliest tokens; 0 is off'],
    ['--seed <S>', 'seed', asSeed, 'same seed, same text; random when left out', SEEDS],
    ['--stop <STR>', 'stop', asText, 'end before this text; can be given several times', 'text that is not empty'],
  ]),
  ...group('load', 'Speculation:', [
    ['--accept <exact|typical>', 'speculation.accept.rule', asText, 'exact: as plain decoding', 'exact or typical'],
    ['--mode <auto|medusa|off>', 'speculation.mode', asText, 'auto speculates where it pays, medusa always, off never'],
    ['--tree <auto|NAME|N|chain:N|F.json>', 'speculation.tree', asTree, 'shape of the draft', TREES],
  ]),
  ...group('load', 'KV cache:', KV),
  ...group('server', 'Server:', [
    ['--host <HOST>', 'host', asText, 'where to listen; 127.0.0.1 is this machine alone, 0.0.0.0 every address', HOSTS],
    ['--port <N>', 'port', asNumber, 'TCP port; 0 is any that is free'],
    ['--origin <O>', 'origins', asText, 'web pages of this origin may use it; can be given several times', ORIGINS],
    ['--proxy <NET>', 'proxies', asText, 'a balancer that names its clients; can be given several times', PROXIES],
    ['--drain <SECONDS>', 'drainMs', asMilliseconds, 'how long what runs gets when the server is stopped', SECONDS],
  ]),
  ...group('serving', 'Model:', [
    ['--chat-template <F>', 'chatTemplate', asText, "what makes text of chats; the model's own when left out"],
  ]),
  ...group('serving', 'Limits:', [
    ['--max-sequences <N>', 'limits.maxSequences', asNumber, 'requests that run at once; others wait'],
    ['--max-queue <N>', 'limits.maxQueue', asNumber, 'requests that may wait; one more is refused (429)'],
  ]),
  ...group('server', 'Limits:', [
    ['--requests-per-minute <N>', 'limits.perKey.requestsPerMinute', asNumber, 'of one key; 0 is any number'],
    ['--concurrent-per-key <N>', 'limits.perKey.concurrent', asNumber, 'requests at once of one key'],
    ['--sessions-per-key <N>', 'limits.perKey.sessions', asNumber, 'conversations open of one key'],
    ['--max-body <SIZE>', BODY_LIMITS, asBytes, 'of a request, and of a WebSocket message', BODY_SIZES],
    ['--max-connections <N>', 'limits.connections', asNumber, 'open at once'],
    ['--max-sessions <N>', 'limits.sessions', asNumber, 'conversations open at once, each with its cache'],
  ]),
  ...group('train', 'Texts:', [
    ['--data <FILE|DIR...>', 'data', asText, 'text, .jsonl or token ids to learn from, or folders of them'],
    ['--field <NAME>', 'field', asText, 'what the text is called in a .jsonl'],
    [
      '--self-distill <N>',
      'selfDistill',
      asNumber,
      'let the model write N tokens, after beginnings of --data; 0 is off',
    ],
    ['--temperature <T>', 'temperature', asNumber, 'at which it writes them'],
    ['--held-out <SHARE>', 'heldOut', asNumber, 'of the texts, to measure the heads with; 0 is none'],
    ['--context <N>', 'context', asNumber, `longest stretch read at once (default ${TRAINING_DEFAULTS.context})`],
  ]),
  ...group('train', 'Heads:', [
    ['--out <DIR>', 'out', asText, 'folder for the heads'],
    ['--heads <N>', 'heads', asNumber, 'how many'],
    ['--layers <N>', 'layers', asNumber, 'residual blocks of each'],
    ['--private', 'private', asText, 'a projection to the vocabulary for each head; else the lm_head serves all'],
  ]),
  ...group('train', 'Training:', [
    ['--steps <N>', 'steps', asNumber, 'updates, in place of --epochs'],
    ['--epochs <N>', 'epochs', asNumber, `times through the texts (default ${TRAINING_DEFAULTS.epochs})`],
    ['--batch-tokens <N>', 'batchTokens', asNumber, 'tokens per update, about'],
    ['--learning-rate <X>', 'learningRate', asNumber, 'height of the schedule'],
    ['--warmup <SHARE>', 'warmup', asNumber, 'of the steps, in which it rises'],
    ['--weight-decay <X>', 'weightDecay', asNumber, 'of AdamW'],
    ['--clip <X>', 'clip', asNumber, 'largest norm of gradients; 0 is any'],
    ['--depth-decay <X>', 'depthDecay', asNumber, "what a head's loss counts, as a share of the one's before it"],
    ['--seed <N>', 'seed', asNumber, 'same seed, same heads, on the CPU'],
  ]),
  ...group('train', 'Run:', [
    ['--resume', 'resume', asText, 'go on from the checkpoint in --out'],
    ['--checkpoint-every <N>', 'checkpointEvery', asNumber, 'steps from one checkpoint to the next'],
    [
      '--evaluate-every <N>',
      'evaluateEvery',
      asNumber,
      'steps from one look at held-out texts to the next; a tenth of all when left out',
    ],
    [
      '--hidden-cache <auto|off|DIR>',
      'hiddenCache',
      asText,
      'where what the model makes of texts is kept from epoch to epoch',
    ],
  ]),
  ...group('train', 'Model:', [MODEL, BACKEND, DTYPE, WEIGHTS, ...RUNS_ON]),
  ...group('calibrate', 'Texts:', [
    [
      '--data <FILE|DIR...>',
      'data',
      asText,
      'text, .jsonl or token ids whose beginnings are continued, or folders of them',
    ],
    ['--field <NAME>', 'field', asText, 'what the text is called in a .jsonl'],
    ['--prompts <N>', 'prompts', asNumber, 'beginnings; a quarter of them to check the tree on'],
    ['--prompt-tokens <N>', 'promptTokens', asNumber, 'tokens of each, at most'],
    ['--tokens <N>', 'tokens', asNumber, 'tokens to make after each'],
    ['--temperature <T,T…>', 'temperatures', asNumbers, 'at which they are made, in turns; 0 is greedy', TEMPERATURES],
    ['--seed <N>', 'seed', asNumber, 'chooses the beginnings, and what is drawn'],
    ['--batch <N>', 'batch', asNumber, 'texts made at once'],
  ]),
  ...group('calibrate', 'Tree:', [
    ['--nodes <N>', 'nodes', asNumber, 'its size, root included; when left out, that which decodes fastest here'],
  ]),
  ...group('calibrate', 'Model:', [
    MODEL,
    ['--heads <DIR>', 'heads', asText, "Medusa heads; the model's own when left out"],
    BACKEND,
    DTYPE,
    WEIGHTS,
    ...RUNS_ON,
  ]),
  ...group('calibrate', 'KV cache:', KV),
]

/** Can be given several times: what is read is an array. */
const REPEATABLE: readonly string[] = ['--stop', '--origin', '--proxy', '--data']
/** Options that have no default, though something stands in for them where defaults are asked for. */
const REQUIRED: readonly string[] = ['model', 'out']

/** The name messages use: `--max-tokens`. */
const nameOf = (one: Flag): string => one.flags.split(' ', 1)[0]!

/** The key commander stores its value under: `maxTokens`. */
const keyOf = (one: Flag): string => new Option(one.flags).attributeName()

type Tree = { [key: string]: unknown }

function valueAt(object: unknown, path: string): unknown {
  return path.split('.').reduce<unknown>((value, key) => (value as Tree | undefined)?.[key], object)
}

function setAt(object: Tree, path: string, value: unknown): void {
  const keys = path.split('.')
  const last = keys.pop()!
  let inner = object
  for (const key of keys) {
    inner[key] ??= {}
    inner = inner[key] as Tree
  }
  inner[last] = value
}

/** Commander's options for the flags of a target, with the defaults their schemas give. */
export function optionsOf(target: Target): Option[] {
  const defaults = DEFAULTS[target]()
  return FLAGS.filter((one) => one.target === target).map((one) => {
    const isRepeatable = REPEATABLE.includes(nameOf(one))
    const [path] = one.paths
    const found = REQUIRED.includes(path) || isRepeatable ? undefined : valueAt(defaults, path)
    // What is off need not say so.
    const value = found === false ? undefined : found
    const shown = SHOWN.get(one.read)?.(value as number) ?? value
    const option = new Option(one.flags, value === undefined ? one.help : `${one.help} (default ${shown})`)
    if (isRepeatable) option.argParser(collect)
    return option.helpGroup(one.group)
  })
}

/** Limits of the server by their dotted names. */
function limitNames(): string[] {
  const { limits } = parseServerOptions({ engine: Promise.race([]) })
  return Object.entries(limits).flatMap(([name, value]) =>
    typeof value === 'object' ? Object.keys(value).map((inner) => `${name}.${inner}`) : [name],
  )
}

/** Any limit that messages may name. */
export const limitOption = (): Option =>
  new Option(
    '--limit <NAME=VALUE>',
    `any limit by the name that errors give it; can be given several times: ${limitNames().join(', ')}`,
  )
    .argParser(collect)
    .helpGroup('Limits:')

/** The limits that `--limit` gives; the flags of single limits come after it. */
function readLimits(texts: readonly string[]): Tree {
  const limits: Tree = {}
  for (const text of texts) {
    const [, name = '', value = ''] = /^(?:limits\.)?([\w.]+)=(.+)$/.exec(text) ?? []
    const names = limitNames()
    if (!names.includes(name)) {
      const known = suggest(name, names) || ` Names: ${names.join(', ')}.`
      throw new UsageError(`--limit is ${JSON.stringify(text)}: use NAME=VALUE, such as choices=16.${known}`)
    }
    setAt(limits, name, asBytes(value))
  }
  return limits
}

/** For a flag that can be given several times. */
export const collect = (text: string, before?: readonly string[]): string[] => [...(before ?? []), text]

const DEFAULTS: { readonly [T in Target]: () => unknown } = {
  load: () => parseLoadOptions('demo'),
  serving: () => parseLoadOptions('demo'),
  generate: () => parseGenerateOptions(),
  // The engine has no default, and is not looked at.
  server: () => parseServerOptions({ engine: Promise.race([]) }),
  train: () => parseTrainOptions({ model: 'demo', data: '.', out: '.' }),
  calibrate: () => parseCalibrateOptions({ model: 'demo', data: '.' }),
}

/** What commander collected, by key. */
export type Given = Readonly<Record<string, unknown>>

/**
 * The load options that the flags given make up over `base`, with defaults.
 *
 * @throws {UsageError} naming the flag, its value and what is allowed.
 */
export function readLoadOptions(given: Given, base: LoadOptions) {
  return read(['load', 'serving'], given, base, parseLoadOptions)
}

/** The same for generate options. */
export function readGenerateOptions(given: Given, base: GenerateOptions) {
  return read(['generate'], given, base, parseGenerateOptions)
}

/**
 * The options of a training run.
 *
 * @throws {UsageError} naming the flag, its value and what is allowed.
 */
export function readTrainOptions(given: Given) {
  return read(['train'], given, { model: 'demo' }, (options) => parseTrainOptions(options as TrainOptions))
}

/** The same of a calibration. */
export function readCalibrateOptions(given: Given) {
  return read(['calibrate'], given, { model: 'demo' }, (options) => parseCalibrateOptions(options as CalibrateOptions))
}

/**
 * What `make` makes of the server's options that the flags give.
 *
 * @throws {UsageError} in the words of the flags where `make` refuses the options.
 */
export function withServerOptions<Made>(
  given: Given,
  make: (options: Omit<ServerOptionsInput, 'engine'>) => Made,
): Made {
  const limits = readLimits((given['limit'] ?? []) as readonly string[])
  return read(['server'], given, { limits }, make)
}

function read<Options, Checked>(
  targets: readonly Target[],
  given: Given,
  base: Options,
  parse: (options: Options) => Checked,
): Checked {
  const options = structuredClone(base) as Tree
  for (const one of FLAGS) {
    const value = given[keyOf(one)]
    if (!targets.includes(one.target) || value === undefined) continue
    const meant = Array.isArray(value) ? value.map(one.read) : one.read(value as string)
    for (const path of one.paths) setAt(options, path, meant)
  }
  try {
    return parse(options as Options)
  } catch (error) {
    throw inFlags(error, targets, given)
  }
}

interface Problem {
  readonly path: string
  readonly message: string
}

/** The schemas speak of options; the user wrote flags. */
function inFlags(error: unknown, targets: readonly Target[], given: Given): unknown {
  if (!isGorgonError(error) || !Array.isArray(error.details['problems'])) return error
  const messages = (error.details['problems'] as Problem[]).map(({ path, message }) => {
    const one = FLAGS.find(
      ({ target, paths }) => targets.includes(target) && paths.some((parent) => isAtOrBelow(path, parent)),
    )
    const isByName = given['limit'] !== undefined && targets.includes('server') && /^limits\./.test(path)
    if (isByName && (!one || given[keyOf(one)] === undefined)) return message.replace('limits.', '--limit ')
    if (!one) return message
    const value = [given[keyOf(one)]]
      .flat()
      .map((text) => JSON.stringify(text))
      .join(', ')
    return one.allowed ? `${nameOf(one)} is ${value}: use ${one.allowed}.` : message.replace(path, nameOf(one))
  })
  return new UsageError([...new Set(messages)].join('\n'), { cause: error })
}

const isAtOrBelow = (path: string, parent: string): boolean =>
  path === parent || (/^[.[]/.test(path.slice(parent.length)) && path.startsWith(parent))
