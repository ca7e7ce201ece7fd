// How requests fail, as OpenAI's client tells it, and that nothing is left of them.
import {
  APIConnectionError,
  APIError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai'
import { describe, expect, it } from 'vitest'
import { type Engine, loadEngine } from '../../../src/index.js'
import { openaiOf } from '../../support/openai.js'
import { runningServers } from '../../support/server.js'

const start = runningServers({ speculation: { mode: 'off' } })

const PROMPT = 'export function add(a: number, b: number)'
const SHORT = { model: 'demo', prompt: PROMPT, max_tokens: 4, temperature: 0 } as const
const ENDLESS = { model: 'demo', prompt: PROMPT, max_tokens: 15_000, temperature: 0, ignore_eos: true } as const
const MESSAGES = [{ role: 'user', content: PROMPT }] as const

/** When nothing runs any more: an end is told before what it held is free. */
async function idle(engine: Engine): Promise<void> {
  await expect.poll(() => engine.stats(), { timeout: 5000, interval: 5 }).toMatchObject({ running: 0, queued: 0 })
}

describe('an error', () => {
  it('is an AuthenticationError without a key, or with a wrong one', async () => {
    const server = await start({ keys: ['the-right-key'] })
    await expect(openaiOf(server).completions.create(SHORT)).rejects.toThrow(AuthenticationError)
    const { choices } = await openaiOf(server, { apiKey: 'the-right-key' }).completions.create(SHORT)
    expect(choices).toHaveLength(1)
  })

  it('is a NotFoundError for a model that is not there, naming those that are', async () => {
    const failing = openaiOf(await start()).completions.create({ ...SHORT, model: 'gpt-5' })
    await expect(failing).rejects.toThrow(NotFoundError)
    await expect(failing).rejects.toMatchObject({
      code: 'ERR_MODEL_UNKNOWN',
      param: 'model',
      message: expect.stringContaining('"demo"'),
    })
  })

  it('is a BadRequestError for a prompt that is longer than the context, streamed or not', async () => {
    const client = openaiOf(await start())
    const long = { ...SHORT, prompt: Array.from({ length: 20_000 }, () => 100) }
    await expect(client.completions.create(long)).rejects.toThrow(BadRequestError)
    await expect(client.completions.create({ ...long, stream: true })).rejects.toMatchObject({
      status: 400,
      code: 'context_length_exceeded',
    })
  })

  it('is an InternalServerError while the model is loading, which the client tries again', async () => {
    const { engine } = await start()
    let arrive!: (loaded: Engine) => void
    const loading = new Promise<Engine>((resolve) => {
      arrive = resolve
    })
    const server = await start({ engine: loading })
    const failing = openaiOf(server).completions.create(SHORT)
    await expect(failing).rejects.toThrow(InternalServerError)
    await expect(failing).rejects.toMatchObject({ status: 503, code: 'ERR_LOADING' })
    const patient = openaiOf(server, { maxRetries: 5 }).completions.create(SHORT)
    arrive(engine)
    expect((await patient).choices).toHaveLength(1)
  })

  it.each([{ concurrent: 2 }, { requestsPerMinute: 2 }])(
    'is a BadRequestError for more choices than a key may ever have: %o',
    async (perKey) => {
      const client = openaiOf(await start({ limits: { perKey } }))
      const message = expect.stringContaining(`may have 2 (limits.perKey.${Object.keys(perKey)})`)
      const refusal = { status: 400, code: 'ERR_OPTION', param: 'n', message }
      await expect(client.completions.create({ ...SHORT, n: 3 })).rejects.toMatchObject(refusal)
      const chat = { model: 'demo', messages: [...MESSAGES], n: 3 }
      await expect(client.chat.completions.create(chat)).rejects.toMatchObject(refusal)
      expect((await client.completions.create({ ...SHORT, n: 2 })).choices).toHaveLength(2)
    },
  )

  it('is a RateLimitError when the queue is full, streamed or not, and a later try succeeds', async () => {
    await using engine = await loadEngine({
      model: 'demo',
      threads: 1,
      heads: false,
      limits: { maxSequences: 1, maxQueue: 0 },
    })
    const server = await start({ engine })
    const client = openaiOf(server)
    const first = await client.completions.create({ ...ENDLESS, stream: true })
    const reading = first[Symbol.asyncIterator]()
    await reading.next()
    await expect(client.completions.create(SHORT)).rejects.toThrow(RateLimitError)
    await expect(client.chat.completions.create({ model: 'demo', messages: [...MESSAGES] })).rejects.toThrow(
      RateLimitError,
    )
    await expect(client.completions.create({ ...SHORT, stream: true })).rejects.toMatchObject({
      status: 429,
      code: 'ERR_QUEUE_FULL',
    })
    const patient = openaiOf(server, { maxRetries: 5 }).completions.create({ ...SHORT, stream: true })
    await reading.return!()
    let text = ''
    for await (const { choices } of await patient) text += choices[0]!.text
    expect(text).not.toBe('')
  })

  it('in the middle of a stream is its last event, which the client throws', async () => {
    const server = await start()
    const stream = await openaiOf(server).completions.create({ ...ENDLESS, stream: true })
    const reading = stream[Symbol.asyncIterator]()
    await reading.next()
    const closing = server.close({ drainMs: 0 })
    await expect(
      (async () => {
        for (let i = 0; i < 20_000; i++) if ((await reading.next()).done) return
      })(),
    ).rejects.toMatchObject({ code: 'ERR_DRAINING' })
    await closing
  })

  it('is a connection error when nobody listens', async () => {
    const server = await start()
    await server.close()
    await expect(openaiOf(server).completions.create(SHORT)).rejects.toThrow(APIConnectionError)
  })

  it('carries the id that the log has', async () => {
    const error = await openaiOf(await start())
      .completions.create({ ...SHORT, temperature: -1 })
      .catch((caught: unknown) => caught)
    expect(error).toBeInstanceOf(APIError)
    expect((error as APIError).requestID).toMatch(/\S/)
  })
})

describe('a client that leaves', () => {
  it('by an AbortSignal ends its generation within a step', async () => {
    const server = await start()
    const controller = new AbortController()
    const request = openaiOf(server).completions.create(ENDLESS, { signal: controller.signal })
    await expect.poll(() => server.engine.stats().running).toBe(1)
    controller.abort()
    await expect(request).rejects.toThrow(APIUserAbortError)
    await idle(server.engine)
    expect(server.engine.stats().totals.completionTokens).toBeLessThan(ENDLESS.max_tokens)
  })

  it('in the middle of a stream ends all choices of the request', async () => {
    const server = await start()
    const stream = await openaiOf(server).completions.create({ ...ENDLESS, n: 4, temperature: 1, stream: true })
    let seen = 0
    for await (const _ of stream) if (++seen > 8) break
    await idle(server.engine)
  })

  it('in the middle of a chat leaves no generation either', async () => {
    const server = await start()
    const stream = await openaiOf(server).chat.completions.create({
      model: 'demo',
      messages: [...MESSAGES],
      temperature: 0,
      stream: true,
    })
    for await (const { choices } of stream) if (choices[0]!.delta.content) break
    await idle(server.engine)
  })

  it('in the middle of a response leaves no generation either', async () => {
    const server = await start()
    const stream = await openaiOf(server).responses.create({
      model: 'demo',
      input: PROMPT,
      temperature: 0,
      stream: true,
    })
    for await (const event of stream) if (event.type === 'response.output_text.delta') break
    await idle(server.engine)
  })
})
