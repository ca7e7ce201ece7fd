// Options: defaults, both sides of every limit, and errors that say what to do.
import { describe, expect, test } from 'vitest'
import { GorgonError } from '../src/errors.js'
import {
  type GenerateOptionsInput,
  type KvOptionsInput,
  type LoadOptionsInput,
  mergeKv,
  mergeSpeculation,
  parseGenerateOptions,
  parseLoadOptions,
  parseMessages,
  parseSessionOptions,
} from '../src/options.js'

/** The ERR_OPTION that parsing throws. */
function problem(parse: () => unknown): { message: string; path: unknown; value: unknown } {
  try {
    parse()
  } catch (error) {
    if (!(error instanceof GorgonError)) throw error
    expect(error.code).toBe('ERR_OPTION')
    const { path, value } = error.details
    return { message: error.message, path, value }
  }
  throw new Error('nothing was thrown')
}

const generateProblem = (options: unknown) => problem(() => parseGenerateOptions(options as GenerateOptionsInput))
const loadProblem = (options: unknown) => problem(() => parseLoadOptions(options as LoadOptionsInput))

describe('defaults', () => {
  test('of loading', () => {
    expect(parseLoadOptions('some/folder')).toEqual({
      model: 'some/folder',
      backend: 'auto',
      dtype: 'auto',
      weights: 'full',
      threads: 0,
      isa: 'auto',
      limits: { maxSequences: 16, maxQueue: 1024 },
      speculation: {
        mode: 'auto',
        tree: 'auto',
        accept: { rule: 'exact' },
        gate: { margin: 0.03, probeEvery: 32, maxBatch: 1024 },
      },
      kv: {
        policy: 'snapkv',
        budget: 2048,
        window: 32,
        poolSize: 7,
        pool: 'max',
        groupReduce: 'mean',
        sinks: 4,
        turns: 'recompress',
        reportKept: false,
      },
    })
    expect(parseLoadOptions({ model: 'some/folder' })).toEqual(parseLoadOptions('some/folder'))
  })

  test('of a generation', () => {
    expect(parseGenerateOptions()).toEqual({
      maxTokens: 256,
      minTokens: 0,
      ignoreEos: false,
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      frequencyPenalty: 0,
      presencePenalty: 0,
      logitBias: {},
      stop: [],
      stopTokenIds: [],
      logprobs: false,
      onAbort: 'throw',
      highWaterMark: 64,
      client: '',
      priority: 0,
    })
  })

  test('of typical acceptance', () => {
    const { speculation } = parseGenerateOptions({ speculation: { accept: { rule: 'typical' } } })
    expect(speculation).toEqual({ accept: { rule: 'typical', epsilon: 0.09, delta: 0.3 } })
  })

  test('fill what is given as undefined', () => {
    expect(parseGenerateOptions({ maxTokens: undefined, kv: undefined })).toEqual(parseGenerateOptions())
  })

  test('of a session: none', () => {
    expect(parseSessionOptions()).toEqual({})
    expect(parseSessionOptions({ kv: { budget: 64 } })).toEqual({ kv: { budget: 64 } })
  })
})

describe('every value of every choice is taken', () => {
  test.each<LoadOptionsInput>([
    ...(['auto', 'cpu', 'cuda'] as const).map((backend) => ({ model: 'm', backend })),
    ...(['auto', 'f32', 'bf16', 'f16'] as const).map((dtype) => ({ model: 'm', dtype })),
    ...(['full', 'int8'] as const).map((weights) => ({ model: 'm', weights })),
    { model: 'm', weights: 'int8', dtype: 'bf16' },
    ...(['auto', 'medusa', 'off'] as const).map((mode) => ({ model: 'm', speculation: { mode } })),
    ...(['full', 'snapkv', 'h2o', 'streaming'] as const).map((policy) => ({ model: 'm', kv: { policy } })),
    ...(['max', 'avg'] as const).map((pool) => ({ model: 'm', kv: { pool } })),
    ...(['mean', 'max'] as const).map((groupReduce) => ({ model: 'm', kv: { groupReduce } })),
    ...(['recompress', 'frozen'] as const).map((turns) => ({ model: 'm', kv: { turns } })),
    ...['auto', 'chain:3', 16, { paths: [[0], [0, 1]] }].map((tree) => ({ model: 'm', speculation: { tree } })),
    { model: 'm', heads: 'folder' },
    { model: 'm', heads: false },
    { model: 'm', limits: { maxContext: 2, maxQueue: 0, maxSequences: 1 } },
    { model: 'm', onProgress: () => undefined, signal: new AbortController().signal },
  ])('%o', (options) => {
    expect(parseLoadOptions(options)).toMatchObject(options)
  })

  test('an abort signal of another realm is recognised by its shape', () => {
    const signal = { aborted: false, addEventListener: () => undefined } as unknown as AbortSignal
    expect(parseGenerateOptions({ signal }).signal).toBe(signal)
  })
})

describe('both sides of every limit of a generation', () => {
  test.each<[keyof GenerateOptionsInput, unknown[], unknown[]]>([
    ['maxTokens', [1, 2 ** 31 - 1], [0, -1, 1.5, 2 ** 31, Number.NaN, Number.POSITIVE_INFINITY, '5']],
    ['minTokens', [0, 256], [-1, 0.5]],
    ['ignoreEos', [true, false], [1, 'yes', null]],
    ['temperature', [0, 0.001, 1, 100], [-1, 0.0009, 100.1, Number.NaN, 'hot']],
    ['topK', [0, 1, 100000], [-1, 1.5]],
    ['topP', [0.0001, 1], [0, 1.01, -1]],
    ['minP', [0, 1], [-0.1, 1.1]],
    ['seed', [0, Number.MAX_SAFE_INTEGER, 0n, 2n ** 64n - 1n], [-1, 1.5, 2 ** 53, -1n, 2n ** 64n, '7']],
    ['repetitionPenalty', [0.01, 100], [0, 101]],
    ['frequencyPenalty', [-2, 2], [-2.1, 2.1]],
    ['presencePenalty', [-2, 2], [-2.1, 2.1]],
    [
      'logitBias',
      [{}, { 0: -100, 4095: 100 }, { 7: Number.NEGATIVE_INFINITY }],
      [
        { 7: 100.5 },
        { 7: Number.NaN },
        { 7: Number.POSITIVE_INFINITY },
        { a: 1 },
        { '-1': 1 },
        { '01': 1 },
        { 1.5: 1 },
        [],
        5,
      ],
    ],
    ['stop', ['a', ['a', 'b'], []], ['', ['a', ''], 5, [5]]],
    ['stopTokenIds', [[], [0, 5]], [[-1], [1.5], 5]],
    ['logprobs', [false, 0, 20], [true, -1, 21, 1.5]],
    ['timeoutMs', [1, 2 ** 31 - 1], [0, 2 ** 31]],
    ['onAbort', ['throw', 'return'], ['ignore']],
    ['highWaterMark', [1], [0]],
    ['onPrefill', [() => undefined], ['yes']],
    ['signal', [AbortSignal.abort()], [{}, 'abort', null]],
  ])('%s', (name, good, bad) => {
    for (const value of good) expect(() => parseGenerateOptions({ [name]: value })).not.toThrow()
    for (const value of bad) {
      const { message, path } = generateProblem({ [name]: value })
      expect(String(path)).toMatch(new RegExp(`^${name}\\b`))
      expect(message).toContain(name)
      expect(message).not.toMatch(/expected|Invalid|Too /)
    }
  })

  test('seeds are carried as bigint, stop strings as a list', () => {
    expect(parseGenerateOptions({ seed: 5, stop: 'end' })).toMatchObject({ seed: 5n, stop: ['end'] })
  })
})

describe('both sides of every limit of loading', () => {
  test.each<[string, (value: unknown) => unknown, unknown[], unknown[]]>([
    ['model', (model) => ({ model }), ['m'], ['', 5, undefined]],
    ['heads', (heads) => ({ heads }), ['h', false], ['', true, 5]],
    ['threads', (threads) => ({ threads }), [0, 1024], [-1, 1025, 1.5]],
    ['chatTemplate', (chatTemplate) => ({ chatTemplate }), ['chat.jinja'], ['', 5]],
    ['isa', (isa) => ({ isa }), ['avx2'], ['', 5]],
    ['device', (device) => ({ device }), [0, 1023], [-1, 1024, 0.5, '0']],
    ['deviceMemory', (deviceMemory) => ({ deviceMemory }), [1, 24e9], [0, -1, 1.5, '24GB']],
    ['limits.maxSequences', (maxSequences) => ({ limits: { maxSequences } }), [1, 1024], [0, 1025]],
    ['limits.maxQueue', (maxQueue) => ({ limits: { maxQueue } }), [0], [-1]],
    ['limits.maxContext', (maxContext) => ({ limits: { maxContext } }), [2], [1]],
    ['onProgress', (onProgress) => ({ onProgress }), [() => undefined], [5]],
    ['kv.budget', (budget) => ({ kv: { policy: 'full', budget } }), [2], [1, 2.5]],
    ['kv.window', (window) => ({ kv: { window } }), [1, 2047], [0]],
    ['kv.poolSize', (poolSize) => ({ kv: { poolSize } }), [1, 3, 255], [0, 2, 4, 257, -1, 1.5]],
    ['kv.sinks', (sinks) => ({ kv: { sinks } }), [0], [-1]],
    ['kv.reportKept', (reportKept) => ({ kv: { reportKept } }), [true], [1]],
    [
      'speculation.tree',
      (tree) => ({ speculation: { tree } }),
      ['any name', 1, { paths: [] }],
      ['', 1.5, true, [[0]], { paths: 5 }, { paths: [['0']] }, { path: [] }],
    ],
    [
      'speculation.accept',
      (accept) => ({ speculation: { accept } }),
      [
        { rule: 'exact' },
        { rule: 'typical', epsilon: 1, delta: 1 },
        { rule: 'typical', epsilon: 0.0001, delta: 0.0001 },
      ],
      [
        'exact',
        {},
        { rule: 'other' },
        ...[0, -1, 1.1].flatMap((v) => [
          { rule: 'typical', epsilon: v },
          { rule: 'typical', delta: v },
        ]),
      ],
    ],
  ])('%s', (path, wrap, good, bad) => {
    const withModel = (value: unknown) => ({ model: 'm', ...(wrap(value) as object) }) as LoadOptionsInput
    for (const value of good) expect(() => parseLoadOptions(withModel(value))).not.toThrow()
    for (const value of bad) {
      const found = loadProblem(withModel(value))
      expect(String(found.path).startsWith(path)).toBe(true)
      expect(found.message).toContain(path)
      expect(found.message).not.toMatch(/expected|Invalid|Too /)
    }
  })
})

describe('rules between fields', () => {
  test('the budget includes the window', () => {
    expect(() => parseLoadOptions({ model: 'm', kv: { budget: 33 } })).not.toThrow()
    const { message, path } = loadProblem({ model: 'm', kv: { budget: 32 } })
    expect(path).toBe('kv.budget')
    expect(message).toBe(
      'kv.budget is 32, not larger than the window (32). The budget includes the window: use at least 33, or lower the window.',
    )
    expect(loadProblem({ model: 'm', kv: { policy: 'h2o', budget: 32 } }).path).toBe('kv.budget')
  })

  test('the budget of streaming includes the sinks, and has no window', () => {
    expect(() => parseLoadOptions({ model: 'm', kv: { policy: 'streaming', budget: 5 } })).not.toThrow()
    expect(loadProblem({ model: 'm', kv: { policy: 'streaming', budget: 4 } }).message).toMatch(
      /kv.budget is 4, not larger than sinks \(4\).*at least 5/,
    )
  })

  test('a full cache needs neither', () => {
    expect(() => parseLoadOptions({ model: 'm', kv: { policy: 'full', budget: 2 } })).not.toThrow()
  })

  test('minTokens is at most maxTokens, also its default', () => {
    expect(() => parseGenerateOptions({ minTokens: 5, maxTokens: 5 })).not.toThrow()
    expect(generateProblem({ minTokens: 6, maxTokens: 5 })).toMatchObject({ path: 'minTokens', value: 6 })
    expect(generateProblem({ minTokens: 257 }).message).toMatch(/minTokens is 257, larger than maxTokens \(256\)/)
  })

  test('int8 weights are multiplied with bf16', () => {
    for (const dtype of ['f32', 'f16'] as const) {
      expect(loadProblem({ model: 'm', weights: 'int8', dtype })).toMatchObject({
        path: 'dtype',
        message: `dtype is "${dtype}", but int8 weights are multiplied with bf16. Use dtype "auto" or "bf16".`,
      })
    }
  })

  test('medusa needs heads', () => {
    expect(loadProblem({ model: 'm', heads: false, speculation: { mode: 'medusa' } }).path).toBe('speculation.mode')
  })
})

describe('messages', () => {
  test.each([
    [{ max_tokens: 5 }, 'max_tokens', '"max_tokens" is not an option here. Did you mean "maxTokens"?'],
    [{ temprature: 1 }, 'temprature', '"temprature" is not an option here. Did you mean "temperature"?'],
    [{ kv: { budgt: 64 } }, 'kv.budgt', 'kv: "budgt" is not an option here. Did you mean "budget"?'],
    [{ onAbort: 'retrun' }, 'onAbort', 'onAbort is "retrun": use one of "throw", "return". Did you mean "return"?'],
    [
      { speculation: { accept: { rule: 'typcal' } } },
      'speculation.accept.rule',
      'speculation.accept.rule is "typcal": use { rule: "exact" } or { rule: "typical", epsilon, delta }. Did you mean "typical"?',
    ],
    [{ topP: 1.5 }, 'topP', 'topP is 1.5: use a number above 0, at most 1.'],
    [{ seed: -1n }, 'seed', 'seed is -1n: use a whole number from 0 to 9007199254740991, or a bigint below 2n ** 64n.'],
    [{ stopTokenIds: [3, -1] }, 'stopTokenIds[1]', 'stopTokenIds[1] is -1: use a whole number, at least 0.'],
    [{ logitBias: { five: 1 } }, 'logitBias.five', 'logitBias has the key "five": use token ids as keys.'],
    [
      { stop: 'x'.repeat(1025) },
      'stop',
      `stop is "${'x'.repeat(60)}…": use a string of 1 to 1024 characters, or an array of at most 64 such.`,
    ],
    [{ stop: ['a', ''] }, 'stop[1]', 'stop[1] is "": use a string of 1 to 1024 characters.'],
    [
      { stop: Array(65).fill('a') },
      'stop',
      'stop is an array of 65: use a string of 1 to 1024 characters, or an array of at most 64 such.',
    ],
    [
      { logitBias: Object.fromEntries(Array.from({ length: 16_385 }, (_, id) => [id, 1])) },
      'logitBias',
      'logitBias is an object: use an object from token ids to numbers, of at most 16384.',
    ],
    [
      { logitBias: new Map([[1, 1]]) },
      'logitBias',
      'logitBias is an object: use an object from token ids to numbers, of at most 16384.',
    ],
    [{ onPrefill: [] }, 'onPrefill', 'onPrefill is an array of 0: use a function.'],
    [{ kv: () => 5 }, 'kv', 'kv is a function: use an object of options.'],
  ])('%o', (options, path, message) => {
    expect(generateProblem(options)).toMatchObject({ path, message })
  })

  test('as many and as long stop strings and biases as may be are taken', () => {
    const stop = Array.from({ length: 64 }, (_, i) => `${i}`.padEnd(1024, 'x'))
    const logitBias = Object.fromEntries(Array.from({ length: 16_384 }, (_, id) => [id, 1]))
    expect(parseGenerateOptions({ stop, logitBias })).toMatchObject({ stop, logitBias })
  })

  test('an unknown key unlike any known lists those that are', () => {
    expect(generateProblem({ kv: { xyzzy: 1 } }).message).toMatch(/Known: policy, budget, window/)
  })

  test('all problems are told at once', () => {
    const { message } = loadProblem({ kv: { poolSize: 4 }, threads: -1 })
    expect(message.split('\n')).toHaveLength(3)
    expect(message).toMatch(/model is missing/)
  })

  test('a long value is cut', () => {
    expect(generateProblem({ temperature: 'x'.repeat(1000) }).message.length).toBeLessThan(200)
  })

  test('something that is no object at all is refused', () => {
    for (const value of [null, 5, 'text', []])
      expect(generateProblem(value).message).toMatch(/use an object of options/)
    expect(loadProblem(undefined).message).toMatch(/The value given is missing/)
  })

  test('a key of the prototype is not an option', () => {
    expect(generateProblem(JSON.parse('{"__proto__": 1, "constructor": 2}')).message).toMatch(/is not an option here/)
  })
})

describe('merging', () => {
  const { kv, speculation } = parseLoadOptions({
    model: 'm',
    kv: { budget: 512, pool: 'avg' },
    speculation: { mode: 'medusa', tree: 'chain:4', accept: { rule: 'typical', epsilon: 0.2 } },
  })

  test('without overrides gives the engine’s options', () => {
    expect(mergeKv(kv)).toEqual(kv)
    expect(mergeKv(kv, undefined, {})).toEqual(kv)
    expect(mergeSpeculation(speculation, undefined)).toEqual(speculation)
  })

  test('replaces field by field, later layers over earlier ones', () => {
    expect(mergeKv(kv, { window: 16 }, { window: 8, budget: 64 })).toEqual({ ...kv, window: 8, budget: 64 })
    expect(mergeSpeculation(speculation, { tree: 16 })).toEqual({ ...speculation, tree: 16 })
  })

  test('does not take undefined for a value', () => {
    expect(mergeKv(kv, { budget: undefined })).toEqual(kv)
  })

  test('does not bring a default back over the engine’s value', () => {
    const request = parseGenerateOptions({ kv: { window: 16 }, speculation: { mode: 'auto' } })
    expect(mergeKv(kv, request.kv)).toEqual({ ...kv, window: 16 })
    expect(mergeSpeculation(speculation, request.speculation)).toEqual({ ...speculation, mode: 'auto' })
  })

  test('accept is one field', () => {
    const request = parseGenerateOptions({ speculation: { accept: { rule: 'typical' } } })
    expect(mergeSpeculation(speculation, request.speculation).accept).toEqual({
      rule: 'typical',
      epsilon: 0.09,
      delta: 0.3,
    })
    expect(mergeSpeculation(speculation, { accept: { rule: 'exact' } }).accept).toEqual({ rule: 'exact' })
  })

  test('holds the rules between fields over the result, not over the request', () => {
    const alone: KvOptionsInput = { window: 500 }
    expect(() => parseGenerateOptions({ kv: { window: 4000 } })).not.toThrow()
    expect(mergeKv(kv, alone).window).toBe(500)
    expect(problem(() => mergeKv(kv, { window: 512 }))).toMatchObject({ path: 'kv.budget', value: 512 })
  })
})

describe('messages of a chat', () => {
  test('are a role and content', () => {
    const messages = [
      { role: 'system', content: '' },
      { role: 'user', content: 'Hello' },
    ]
    expect(parseMessages(messages)).toEqual(messages)
  })

  test.each([
    [[], 'messages is an array of 0: use at least one message.'],
    [[{ role: 'user' }], 'messages[0].content is missing: give a string.'],
    [[{ role: '', content: 'x' }], 'messages[0].role is "": use a role, such as "user".'],
    [
      [{ role: 'user', content: 'x', contents: 'y' }],
      'messages[0]: "contents" is not an option here. Did you mean "content"?',
    ],
    ['hello', 'messages is "hello": use an array of { role, content }.'],
  ])('%j', (messages, message) => {
    expect(problem(() => parseMessages(messages as never)).message).toBe(message)
  })
})
