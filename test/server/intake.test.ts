// What becomes of a request for a generation: its model, its seed, its priority, its limits, its line in the log, its end.
import { describe, expect, test } from 'vitest'
import type { Engine, Result } from '../../src/index.js'
import { Intake, type WorkRequest } from '../../src/server/intake.js'
import { createLogger, type Logger } from '../../src/server/log.js'
import type { Observer, WorkLabels } from '../../src/server/observer.js'
import { parseServerOptions, type ServerOptionsInput } from '../../src/server/options.js'
import { failure } from '../support/errors.js'
import { toyEngines } from '../support/toy-engine.js'

const toyEngine = toyEngines()
const SOMEBODY = { id: 'somebody', maxPriority: 0 }

/** Remembers what it is told, as words. */
function witness() {
  const told: string[] = []
  const observer: Observer = {
    work: ({ endpoint, model }: WorkLabels) => ({
      chunk: () => void told.push('chunk'),
      finished: ({ finish }: Result) => void told.push(`${endpoint} of ${model}: ${finish}`),
      failed: (code: string) => void told.push(`${endpoint} of ${model}: ${code}`),
    }),
    refused: (endpoint, code) => void told.push(`${endpoint} refused: ${code}`),
  }
  return { observer, told }
}

function intakeOf(engine: ServerOptionsInput['engine'], options: Partial<ServerOptionsInput> = {}) {
  const { observer, told } = witness()
  return { intake: new Intake(parseServerOptions({ engine, ...options }), observer), told }
}

const request = (more: Partial<WorkRequest> = {}): WorkRequest => ({
  principal: SOMEBODY,
  endpoint: 'chat',
  input: 'a prompt',
  options: { maxTokens: 8 },
  ...more,
})

/** Engine that notes what it was asked with. */
function noting(engine: Engine) {
  const asked: Parameters<Engine['generate']>[1][] = []
  const generate: Engine['generate'] = (prompt, options) => {
    asked.push(options)
    return engine.generate(prompt, options)
  }
  return { asked, engine: { generate, info: engine.info } as Engine }
}

/** Reads what comes, slowly or not at all. */
async function textOf(chunks: AsyncIterable<{ readonly text: string }>): Promise<string> {
  let text = ''
  for await (const chunk of chunks) text += chunk.text
  return text
}

describe('a work', () => {
  test('gives the chunks and the result that the library gives', async () => {
    const { engine } = toyEngine()
    const { intake, told } = intakeOf({ m: engine })
    const work = intake.start(request())
    const text = await textOf(work.chunks)
    const result = await work.result
    expect(text).toBe(result.text)
    expect(result.tokens).toEqual((await engine.generate('a prompt', { maxTokens: 8 })).tokens)
    expect(told.filter((word) => word === 'chunk').length).toBeGreaterThan(0)
    expect(told.at(-1)).toBe('chat of m: length')
    expect(intake.running).toBe(0)
  })

  test('needs no reader of its chunks', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf(engine)
    const { tokens } = await intake.start(request({ options: { maxTokens: 500, ignoreEos: true } })).result
    expect(tokens).toHaveLength(500)
  })

  test('that is left by its reader is aborted, and gives what there is', async () => {
    const { engine } = toyEngine()
    const { intake, told } = intakeOf({ m: engine })
    const work = intake.start(request({ options: { maxTokens: 1000, ignoreEos: true } }))
    for await (const chunk of work.chunks) if (chunk.index === 1) break
    expect((await work.result).finish).toBe('aborted')
    expect(told.at(-1)).toBe('chat of m: aborted')
    expect(engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })

  test('that the engine refuses rejects, and is told once', async () => {
    const { engine } = toyEngine()
    const { intake, told } = intakeOf({ m: engine })
    const work = intake.start(request({ input: '' }))
    await failure(() => work.result, 'ERR_EMPTY_PROMPT')
    expect(told).toEqual(['chat of m: ERR_EMPTY_PROMPT'])
  })
})

describe('seeds', () => {
  test('are chosen for whoever samples and names none, and give the same tokens again', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf(engine)
    const options = { maxTokens: 32, temperature: 1, ignoreEos: true }
    const first = intake.start(request({ options }))
    const second = intake.start(request({ options }))
    expect(first.seed).not.toBe(second.seed)
    expect(Number.isSafeInteger(first.seed)).toBe(true)
    const { tokens, seed } = await first.result
    expect(seed).toBe(first.seed)
    const again = intake.start(request({ options: { ...options, seed: first.seed as number } }))
    expect((await again.result).tokens).toEqual(tokens)
    await second.result
  })

  test.each([
    ['greedy decoding has none', { temperature: 0 }, null],
    ['one that is named is kept', { temperature: 1, seed: 7 }, 7],
    ['one of greedy decoding is not used', { temperature: 0, seed: 7 }, null],
    ['a large one is written as text', { temperature: 1, seed: 2n ** 63n }, '9223372036854775808'],
  ])('%s', async (_, options, seed) => {
    const { intake } = intakeOf(toyEngine().engine)
    const work = intake.start(request({ options: { maxTokens: 1, ...options } }))
    expect(work.seed).toBe(seed)
    const { seed: used } = await work.result
    expect(typeof used === 'bigint' ? String(used) : used).toBe(seed)
  })
})

test('the principal is the client in the engine’s queue, and its priority is cut to what it may have', async () => {
  const { asked, engine } = noting(toyEngine().engine)
  const { intake } = intakeOf(engine)
  const alice = { id: 'alice', maxPriority: 2 }
  for (const priority of [undefined, -3, 1, 9]) {
    const options = { maxTokens: 1, client: 'mallory', ...(priority !== undefined && { priority }) }
    await intake.start(request({ principal: alice, options })).result
  }
  expect(asked.map((options) => [options?.client, options?.priority])).toEqual([
    ['alice', 0],
    ['alice', -3],
    ['alice', 1],
    ['alice', 2],
  ])
})

describe('models', () => {
  test('are found by name; without one it is the first', async () => {
    const { intake } = intakeOf({ a: toyEngine().engine, b: toyEngine().engine })
    expect(intake.models().map(({ id }) => id)).toEqual(['a', 'b'])
    expect(intake.start(request()).model).toBe('a')
    expect(intake.start(request({ model: 'b' })).model).toBe('b')
    await intake.idle()
    const error = await failure(() => intake.start(request({ model: 'c' })), 'ERR_MODEL_UNKNOWN', /"a", "b"/)
    expect(error.details['path']).toBe('model')
  })

  test('that still load, or did not, are said to', async () => {
    let arrive: (engine: Engine) => void = () => undefined
    const coming = new Promise<Engine>((resolve) => {
      arrive = resolve
    })
    const lines: string[] = []
    const logger = createLogger('error', { write: (line) => lines.push(line) })
    const failing = Promise.reject<Engine>(new Error('the disk is broken'))
    const { intake, told } = intakeOf({ coming, failing }, { logger })
    await failure(() => intake.start(request({ model: 'coming' })), 'ERR_LOADING')
    const error = await failure(() => intake.start(request({ model: 'failing' })), 'ERR_LOAD_FAILED', /log says why/)
    expect(error.message).not.toContain('disk')
    expect(lines.join('')).toContain('the disk is broken')
    expect(intake.state).toBe('failed')
    expect(told).toEqual(['chat refused: ERR_LOADING', 'chat refused: ERR_LOAD_FAILED'])

    arrive(toyEngine().engine)
    await coming
    expect((await intake.start(request({ model: 'coming' })).result).finish).toBe('length')
  })

  test('one without a name has its folder’s, once it is there', async () => {
    const { engine } = toyEngine()
    const coming = Promise.resolve(engine)
    const { intake } = intakeOf(coming)
    expect(intake.models()).toEqual([])
    expect(intake.state).toBe('loading')
    await coming
    expect(intake.models()).toEqual([{ id: 'toy', created: expect.any(Number), engine }])
    expect(intake.state).toBe('ready')
  })
})

describe('limits', () => {
  test('a key has so many at once; each end makes room for one', async () => {
    const { intake, told } = intakeOf({ m: toyEngine().engine }, { limits: { perKey: { concurrent: 2 } } })
    const first = intake.start(request())
    intake.start(request())
    await failure(() => intake.start(request()), 'ERR_RATE_LIMIT')
    expect(told).toEqual(['chat refused: ERR_RATE_LIMIT'])
    intake.start(request({ principal: { id: 'other', maxPriority: 0 } }))
    await first.result
    await intake.idle()
    intake.start(request())
    await intake.idle()
  })

  test('requests that fail give their place back as well', async () => {
    const { intake } = intakeOf(toyEngine().engine, { limits: { perKey: { concurrent: 1 } } })
    for (let i = 0; i < 5; i++) {
      await failure(() => intake.start(request({ input: '' })).result, 'ERR_EMPTY_PROMPT')
      await intake.idle()
    }
  })
})

describe('sessions', () => {
  test('are turns over one cache, of their model', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf({ a: toyEngine().engine, b: engine })
    const session = intake.openSession(SOMEBODY, 'b')
    expect(session).toMatchObject({ model: 'b', owner: SOMEBODY })
    await intake.start(request({ session })).result
    const second = intake.start(request({ session, input: ' and on' }))
    expect(second.model).toBe('b')
    expect((await second.result).usage.cached).toBeGreaterThan(0)
    expect(engine.stats().sessions).toBe(1)
    await session.close()
    expect(engine.stats().sessions).toBe(0)
  })

  test('are so many of one key, and so many in all; each that is closed makes room', async () => {
    const [alice, bob] = [SOMEBODY, { id: 'bob', maxPriority: 0 }]
    const { intake } = intakeOf(toyEngine().engine, { limits: { sessions: 3, perKey: { sessions: 2 } } })
    const first = intake.openSession(alice)
    intake.openSession(alice)
    await failure(() => intake.openSession(alice), 'ERR_RATE_LIMIT', /limits\.perKey\.sessions/)
    intake.openSession(bob)
    expect(intake.hasRoomForSession(bob)).toBe(false)
    await failure(() => intake.openSession(bob), 'ERR_RATE_LIMIT', /limits\.sessions/)
    await first.close()
    expect(intake.hasRoomForSession(bob)).toBe(true)
    intake.openSession(bob)
    await intake.closeSessions()
  })

  test('that nobody closed are closed at the end', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf(engine)
    intake.openSession(SOMEBODY)
    intake.openSession(SOMEBODY)
    await intake.closeSessions()
    expect(engine.stats().sessions).toBe(0)
  })
})

describe('draining', () => {
  test('takes nothing new, and is idle when what runs has ended', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf(engine)
    const work = intake.start(request())
    intake.drain()
    expect(intake.state).toBe('draining')
    await failure(() => intake.start(request()), 'ERR_DRAINING')
    await failure(() => intake.openSession(SOMEBODY), 'ERR_DRAINING')
    await failure(() => intake.enter(SOMEBODY), 'ERR_DRAINING')
    await intake.idle()
    expect((await work.result).finish).toBe('length')
  })

  test('what is told to end ends, also one whose reader stands still', async () => {
    const { engine } = toyEngine()
    const { intake } = intakeOf(engine)
    const work = intake.start(request({ options: { maxTokens: 1000, ignoreEos: true, highWaterMark: 1 } }))
    const reader = work.chunks[Symbol.asyncIterator]()
    await reader.next()
    intake.abortAll(new Error('over'))
    await intake.idle()
    expect((await work.result).finish).toBe('aborted')
    expect(engine.stats().running).toBe(0)
  })
})

describe('the log', () => {
  function logged(options: Partial<ServerOptionsInput> = {}) {
    const lines: Record<string, unknown>[] = []
    const logger: Logger = createLogger('debug', { write: (line) => lines.push(JSON.parse(line)) })
    return { lines, ...intakeOf({ m: toyEngine().engine }, { logger, ...options }) }
  }

  test('has one line of each that ended, with counts and times and nothing that was said', async () => {
    const { intake, lines } = logged()
    const work = intake.start(request({ input: 'my private words' }))
    const { text } = await work.result
    await intake.idle()
    expect(lines).toEqual([
      expect.objectContaining({
        level: 'info',
        work: work.id,
        principal: 'somebody',
        endpoint: 'chat',
        model: 'm',
        finish: 'length',
        usage: { prompt: 17, cached: 0, completion: 8 },
        e2eMs: expect.any(Number),
      }),
    ])
    expect(JSON.stringify(lines)).not.toContain('private')
    expect(JSON.stringify(lines)).not.toContain(JSON.stringify(text).slice(1, -1))
  })

  test('has the code of each that was refused, and not what was wrong with it', async () => {
    const { intake, lines } = logged()
    await failure(() => intake.start(request({ options: { stop: 7 as never } })).result, 'ERR_OPTION')
    await intake.idle()
    expect(lines).toEqual([expect.objectContaining({ level: 'info', error: { code: 'ERR_OPTION', path: 'stop' } })])
  })

  test('has what was said where that was asked for', async () => {
    const { intake, lines } = logged({ logContent: true })
    const { text } = await intake.start(request({ input: 'my public words' })).result
    await intake.idle()
    expect(lines).toEqual([expect.objectContaining({ input: 'my public words', text })])
  })
})
