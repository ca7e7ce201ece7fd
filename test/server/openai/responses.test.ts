import type OpenAI from 'openai'
import { NotFoundError } from 'openai'
import { describe, expect, it, vi } from 'vitest'
import { GorgonError, loadEngine } from '../../../src/index.js'
import { allOf, openaiOf } from '../../support/openai.js'
import { runningServers } from '../../support/server.js'
import { toyEngine } from '../../support/toy-engine.js'

const start = runningServers({ speculation: { mode: 'medusa' } })

const INPUT = 'export function add(a: number, b: number): number {'
const GREEDY = { model: 'demo', input: INPUT, temperature: 0, max_output_tokens: 24 } as const
type Params = OpenAI.Responses.ResponseCreateParamsNonStreaming
type Event = OpenAI.Responses.ResponseStreamEvent

const user = (content: string) => ({ role: 'user', content }) as const
const assistant = (content: string) => ({ role: 'assistant', content }) as const

describe('POST /v1/responses', () => {
  it('gives the text of the library', async () => {
    const server = await start()
    const { text, usage } = await server.engine.generate([user(INPUT)], { maxTokens: 24 })
    const response = await openaiOf(server).responses.create(GREEDY)
    expect(response.output_text).toBe(text)
    expect(response).toMatchObject({
      id: expect.stringMatching(/^resp_[0-9a-f]{32}$/),
      object: 'response',
      model: 'demo',
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
      error: null,
      temperature: 0,
      max_output_tokens: 24,
      usage: {
        input_tokens: usage.prompt,
        input_tokens_details: { cached_tokens: 0 },
        output_tokens: 24,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: usage.prompt + 24,
      },
      gorgon: { finish: 'length', seed: null, speculation: { used: true } },
    })
    expect(response.output).toEqual([
      {
        type: 'message',
        id: expect.stringMatching(/^msg_/),
        role: 'assistant',
        status: 'incomplete',
        content: [{ type: 'output_text', text, annotations: [], logprobs: [] }],
      },
    ])
  })

  it('says that it is completed when the text ended by itself', async () => {
    const client = openaiOf(await start())
    const { output_text } = await client.responses.create(GREEDY)
    const stop = output_text.slice(5, 9)
    const response = await client.responses.create({ ...GREEDY, gorgon: { stop } } as Params)
    expect(response).toMatchObject({ status: 'completed', incomplete_details: null, completed_at: expect.any(Number) })
    expect(response.output_text).toBe(output_text.slice(0, output_text.indexOf(stop)))
  })

  it('streams events in their order, each with its number', async () => {
    const client = openaiOf(await start())
    const whole = await client.responses.create(GREEDY)
    const events = await allOf<Event>(await client.responses.create({ ...GREEDY, stream: true }))
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i))
    const types = events.map(({ type }) => type)
    expect(types.filter((type, i) => type !== types[i - 1])).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.incomplete',
    ])
    const deltas = events.flatMap((event) => (event.type === 'response.output_text.delta' ? [event.delta] : []))
    expect(deltas.length).toBeGreaterThan(1)
    expect(deltas.join('')).toBe(whole.output_text)
    const end = events.at(-1) as OpenAI.Responses.ResponseIncompleteEvent
    expect(end.response.output).toEqual([{ ...whole.output[0], id: expect.any(String) }])
    expect(end.response.usage).toEqual(whole.usage)
    const created = events[0] as OpenAI.Responses.ResponseCreatedEvent
    expect(created.response).toMatchObject({ id: end.response.id, status: 'in_progress', output: [], usage: null })
    const ids = events.flatMap((event) => ('item_id' in event ? [event.item_id] : []))
    expect(new Set(ids)).toEqual(new Set([end.response.output[0]!.id]))
  })

  it('is what the client’s own accumulator makes of the stream', async () => {
    const client = openaiOf(await start())
    const whole = await client.responses.create(GREEDY)
    const stream = client.responses.stream(GREEDY)
    const final = await stream.finalResponse()
    expect(final.output).toMatchObject([{ content: [{ text: whole.output_text }] }])
  })

  it('names events as the specification does, and ends with [DONE]', async () => {
    const server = await start()
    const answer = await fetch(`${server.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...GREEDY, stream: true }),
    })
    const frames = (await answer.text()).split('\n\n').filter((frame) => frame !== '')
    expect(frames.at(-1)).toBe('data: [DONE]')
    for (const frame of frames.slice(0, -1)) {
      const [event, data] = frame.split('\n')
      expect(event).toBe(`event: ${JSON.parse(data!.replace('data: ', '')).type}`)
    }
  })

  it('takes instructions and items, and gives log-probabilities', async () => {
    const server = await start()
    const messages = [
      { role: 'system', content: '// Arithmetic' },
      { role: 'system', content: '// in TypeScript' },
      user('const a = 1'),
      assistant('\nconst b = 2'),
      user('const c ='),
    ]
    const { text, logprobs } = await server.engine.generate(messages, { maxTokens: 24, logprobs: 2 })
    const response = await openaiOf(server).responses.create({
      ...GREEDY,
      instructions: '// Arithmetic',
      input: [
        { role: 'developer', content: '// in TypeScript' },
        { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'const a = 1' }] },
        {
          type: 'message',
          id: 'msg_1',
          role: 'assistant',
          status: 'completed',
          content: [{ type: 'output_text', text: '\nconst b = 2', annotations: [] }],
        },
        { role: 'user', content: 'const c =' },
      ],
      top_logprobs: 2,
      include: ['message.output_text.logprobs'],
    } as Params)
    expect(response.output_text).toBe(text)
    const [message] = response.output as OpenAI.Responses.ResponseOutputMessage[]
    const [part] = message!.content as OpenAI.Responses.ResponseOutputText[]
    expect(part!.logprobs!.map(({ logprob }) => logprob)).toEqual(logprobs!.map(({ logprob }) => logprob))
    expect(part!.logprobs!.every(({ top_logprobs }) => top_logprobs.length === 2)).toBe(true)
  })

  it('samples as the other endpoints do, by the same fields', async () => {
    const server = await start()
    const sampling = { temperature: 0.9, top_k: 30, min_p: 0.02, seed: 4, stop: ['\n\n'], repetition_penalty: 1.1 }
    const response = await openaiOf(server).responses.create({ ...GREEDY, ...sampling } as Params)
    const { text } = await server.engine.generate([user(INPUT)], {
      maxTokens: 24,
      temperature: 0.9,
      topK: 30,
      minP: 0.02,
      seed: 4,
      stop: ['\n\n'],
      repetitionPenalty: 1.1,
    })
    expect(response.output_text).toBe(text)
  })

  it('repeats what the request said of itself', async () => {
    const said = {
      metadata: { project: 'x' },
      user: 'u',
      safety_identifier: 's',
      prompt_cache_key: 'k',
      truncation: 'auto',
      top_p: 0.9,
      instructions: 'be brief',
    } as const
    expect(await openaiOf(await start()).responses.create({ ...GREEDY, ...said })).toMatchObject(said)
  })
})

describe('previous_response_id', () => {
  const SECOND = user('export function sub(a: number, b: number)')

  it('goes on from a response, on its cache', async () => {
    const server = await start()
    const client = openaiOf(server)
    const first = await client.responses.create(GREEDY)
    const second = await client.responses.create({ ...GREEDY, previous_response_id: first.id, input: [SECOND] })
    const messages = [user(INPUT), assistant(first.output_text), SECOND]
    const { text, kv } = await server.engine.generate(messages, { maxTokens: 24 })
    expect(second.output_text).toBe(text)
    expect(second.previous_response_id).toBe(first.id)
    expect(second.usage!.input_tokens).toBe(kv.promptTokens)
    expect(second.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(24)
  })

  it('can branch: what was gone on from once is read anew the second time', async () => {
    const server = await start()
    const client = openaiOf(server)
    const first = await client.responses.create(GREEDY)
    const next = { ...GREEDY, previous_response_id: first.id, input: [SECOND] }
    const [one, two] = [await client.responses.create(next), await client.responses.create(next)]
    expect(two.output_text).toBe(one.output_text)
    expect(two.usage!.input_tokens_details.cached_tokens).toBe(0)
    const third = await client.responses.create({ ...GREEDY, previous_response_id: two.id, input: [SECOND] })
    expect(third.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(0)
  })

  it('does not carry instructions over, and reads the context anew where they are others', async () => {
    const server = await start()
    const client = openaiOf(server)
    const first = await client.responses.create({ ...GREEDY, instructions: '// One' })
    const next = { ...GREEDY, previous_response_id: first.id, input: [SECOND] }
    const history = [user(INPUT), assistant(first.output_text), SECOND]
    const second = await client.responses.create({ ...next, instructions: '// Two' })
    const { text } = await server.engine.generate([{ role: 'system', content: '// Two' }, ...history], {
      maxTokens: 24,
    })
    expect(second.output_text).toBe(text)
    expect(second.usage!.input_tokens_details.cached_tokens).toBe(0)
  })

  it('keeps the cache for the next try when a turn fails', async () => {
    const server = await start()
    const client = openaiOf(server)
    const first = await client.responses.create(GREEDY)
    const next = { ...GREEDY, previous_response_id: first.id }
    const huge = client.responses.create({ ...next, input: 'add '.repeat(20_000) })
    await expect(huge).rejects.toMatchObject({ code: 'context_length_exceeded' })
    const second = await client.responses.create({ ...next, input: [SECOND] })
    expect(second.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(0)
  })

  it('of nobody knows what is an error that clients recover from', async () => {
    const client = openaiOf(await start())
    await expect(client.responses.create({ ...GREEDY, previous_response_id: 'resp_gone' })).rejects.toMatchObject({
      status: 400,
      code: 'previous_response_not_found',
      param: 'previous_response_id',
    })
  })

  it('does not find what was not stored', async () => {
    const client = openaiOf(await start())
    const first = await client.responses.create({ ...GREEDY, store: false })
    expect(first).toMatchObject({ store: false })
    await expect(client.responses.create({ ...GREEDY, previous_response_id: first.id })).rejects.toMatchObject({
      code: 'previous_response_not_found',
    })
  })

  it('does not find what is somebody else’s', async () => {
    const server = await start({ keys: ['key-of-one', 'key-of-two'] })
    const one = openaiOf(server, { apiKey: 'key-of-one' })
    const two = openaiOf(server, { apiKey: 'key-of-two' })
    const first = await one.responses.create(GREEDY)
    await expect(two.responses.create({ ...GREEDY, previous_response_id: first.id })).rejects.toMatchObject({
      code: 'previous_response_not_found',
    })
    await expect(two.responses.retrieve(first.id)).rejects.toThrow(NotFoundError)
    await expect(two.responses.retrieve(first.id)).rejects.toMatchObject({ code: 'ERR_RESPONSE_NOT_FOUND' })
    await expect(two.responses.delete(first.id)).rejects.toThrow(NotFoundError)
    await expect(two.responses.cancel(first.id)).rejects.toThrow(NotFoundError)
    expect((await one.responses.retrieve(first.id)).id).toBe(first.id)
  })

  it('gives its cache back when memory is short', async () => {
    const { engine, native } = toyEngine()
    const client = openaiOf(await start({ engine }))
    const { model: _, ...request } = GREEDY
    await client.responses.create({ ...request, max_output_tokens: 2 })
    expect(native.openSessions).toBe(1)
    native.openSession = () => {
      throw new GorgonError('ERR_OUT_OF_MEMORY', 'There is no memory left.')
    }
    await expect(client.responses.create(request)).rejects.toMatchObject({ status: 503, code: 'ERR_OUT_OF_MEMORY' })
    await expect.poll(() => native.openSessions).toBe(0)
    await engine.close()
  })

  it('has none where there is no room for one more, and goes on all the same', async () => {
    const { engine, ...server } = await start({ limits: { sessions: 1 } })
    const client = openaiOf(server)
    const before = engine.stats().sessions
    await client.responses.create(GREEDY)
    const { id } = await client.responses.create(GREEDY)
    expect(engine.stats().sessions - before).toBe(1)
    const next = await client.responses.create({ ...GREEDY, previous_response_id: id })
    expect(next.usage!.input_tokens_details.cached_tokens).toBe(0)
    expect(next.output_text).not.toBe('')
  })

  it('leaves no session open when the server has closed', async () => {
    await using engine = await loadEngine({ model: 'demo', threads: 1 })
    const server = await start({ engine })
    await openaiOf(server).responses.create(GREEDY)
    expect(engine.stats().sessions).toBe(1)
    await server.close()
    expect(engine.stats().sessions).toBe(0)
  })
})

describe('a context that is too long', () => {
  const request = { model: 'demo', temperature: 0, max_output_tokens: 16, instructions: '// Numbers' } as const
  const said = Array.from({ length: 30 }, (_, i) => user(`const number${i} = ${i}`))

  it('is an error, unless the oldest messages may be left out', async () => {
    await using engine = await loadEngine({ model: 'demo', threads: 1, limits: { maxContext: 128 } })
    const client = openaiOf(await start({ engine }))
    await expect(client.responses.create({ ...request, input: said })).rejects.toMatchObject({
      code: 'context_length_exceeded',
    })
    const { usage } = await client.responses.create({ ...request, input: said, truncation: 'auto' })
    expect(usage!.total_tokens).toBeLessThanOrEqual(128)
    expect(usage!.output_tokens).toBe(16)
  })

  it('is not looked at for a key that may ask no more, and counts once', async () => {
    const { engine, ...server } = await start({ limits: { perKey: { concurrent: 1, requestsPerMinute: 3 } } })
    const tokenize = vi.spyOn(engine, 'tokenize')
    const client = openaiOf(server)
    const fitted = { ...GREEDY, truncation: 'auto' } as const
    tokenize.mockRejectedValueOnce(new Error('no'))
    await expect(client.responses.create(fitted)).rejects.toMatchObject({ status: 500 })
    await client.responses.create(fitted)
    await client.responses.create(fitted)
    const calls = tokenize.mock.calls.length
    await expect(client.responses.create(fitted)).rejects.toMatchObject({ status: 429, code: 'ERR_RATE_LIMIT' })
    expect(tokenize).toHaveBeenCalledTimes(calls)
    tokenize.mockRestore()
  })

  it('is left behind as the conversation goes on', async () => {
    await using engine = await loadEngine({ model: 'demo', threads: 1, limits: { maxContext: 128 } })
    const client = openaiOf(await start({ engine }))
    let previous: string | null = null
    const cached: number[] = []
    for (const message of said.slice(0, 12)) {
      const { id, usage }: OpenAI.Responses.Response = await client.responses.create({
        ...request,
        input: [message],
        previous_response_id: previous,
        truncation: 'auto',
      })
      previous = id
      cached.push(usage!.input_tokens_details.cached_tokens)
    }
    // Read anew where something was left out, gone on from where it fits.
    expect(cached.slice(1)).toContain(0)
    expect(cached.filter((tokens) => tokens > 0).length).toBeGreaterThan(4)
  })
})

describe('a stored response', () => {
  it('is found by its id, with its input, until it is deleted', async () => {
    const server = await start()
    const client = openaiOf(server)
    const made = await client.responses.create(GREEDY)
    expect(await client.responses.retrieve(made.id)).toEqual(made)
    const items = await allOf(client.responses.inputItems.list(made.id))
    expect(items).toMatchObject([{ type: 'message', role: 'user', content: [{ type: 'input_text', text: INPUT }] }])
    await expect(client.responses.retrieve(made.id, { stream: true })).rejects.toMatchObject({ param: 'stream' })
    await client.responses.delete(made.id)
    await expect(client.responses.retrieve(made.id)).rejects.toThrow(NotFoundError)
    await expect.poll(() => server.engine.stats().sessions).toBe(0)
  })

  it('lists its input page by page, the latest first unless asked otherwise', async () => {
    const client = openaiOf(await start())
    const said = ['one', 'two', 'three', 'four', 'five']
    const input = said.map((content) => ({ role: 'user', content }) as const)
    const { id } = await client.responses.create({ ...GREEDY, input, max_output_tokens: 1 })
    const texts = async (query: OpenAI.Responses.InputItemListParams) =>
      (await allOf(client.responses.inputItems.list(id, query))).map((item) => {
        const [part] = (item as OpenAI.Responses.ResponseInputMessageItem).content
        return (part as OpenAI.Responses.ResponseInputText).text
      })
    expect(await texts({ limit: 2 })).toEqual(said.toReversed())
    expect(await texts({ limit: 2, order: 'asc' })).toEqual(said)
    await expect(texts({ limit: 0 })).rejects.toMatchObject({ status: 400, param: 'limit' })
  })

  it('can be looked at and ended while it is being made', async () => {
    const server = await start()
    const client = openaiOf(server)
    const request = { ...GREEDY, max_output_tokens: 15_000, gorgon: { ignoreEos: true }, stream: true } as const
    const stream = await client.responses.create(request as OpenAI.Responses.ResponseCreateParamsStreaming)
    const events: Event[] = []
    let id = ''
    for await (const event of stream) {
      events.push(event)
      if (event.type === 'response.created') id = event.response.id
      if (event.type !== 'response.output_text.delta' || events.length !== 8) continue
      const now = await client.responses.retrieve(id)
      expect(now).toMatchObject({ status: 'in_progress', output: [{ status: 'in_progress' }] })
      await expect(client.responses.delete(id)).rejects.toMatchObject({ status: 409 })
      expect(await client.responses.cancel(id)).toMatchObject({ id, status: 'cancelled' })
    }
    const end = events.at(-1) as OpenAI.Responses.ResponseIncompleteEvent
    expect(end).toMatchObject({ type: 'response.incomplete', response: { id, status: 'cancelled' } })
    const text = events.flatMap((event) => (event.type === 'response.output_text.delta' ? [event.delta] : [])).join('')
    const kept = await client.responses.retrieve(id)
    expect(kept.output_text).toBe(text)
    expect(await client.responses.cancel(id)).toMatchObject({ status: 'cancelled' })
  })
})

describe('what it does not do', () => {
  const refused: readonly (readonly [string, object])[] = [
    ['background', { background: true }],
    ['tools', { tools: [{ type: 'web_search' }] }],
    ['tool_choice', { tool_choice: 'required' }],
    ['conversation', { conversation: 'conv_1' }],
    ['prompt', { prompt: { id: 'pmpt_1' } }],
    ['reasoning', { reasoning: { effort: 'high' } }],
    ['text.format', { text: { format: { type: 'json_object' } } }],
    ['text.verbosity', { text: { verbosity: 'low' } }],
    ['context_management', { context_management: [{ type: 'compaction' }] }],
    ['input[0]', { input: [{ type: 'function_call_output', call_id: 'c', output: '' }] }],
    ['input[0].content[0]', { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'data:,' }] }] }],
  ]
  it.each(refused)('is refused, naming %s', async (param, extra) => {
    const failing = openaiOf(await start()).responses.create({ ...GREEDY, ...extra } as Params)
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_UNSUPPORTED', param })
  })

  const wrong: readonly (readonly [string, object])[] = [
    ['input', { input: [] }],
    ['input', { input: undefined }],
    ['input', { input: 3 }],
    ['max_output_tokens', { max_output_tokens: 0 }],
    ['include[0]', { include: ['everything'] }],
    ['truncation', { truncation: 'some' }],
    ['metadata', { metadata: 5 }],
    ['metadata.a', { metadata: { a: 5 } }],
    ['metadata', { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [i, ''])) }],
    ['max_tokens', { max_tokens: 3 }],
  ]
  it.each(wrong)('is told where %s is wrong', async (param, extra) => {
    const failing = openaiOf(await start()).responses.create({ ...GREEDY, ...extra } as Params)
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_OPTION', param })
  })

  it('asks for nothing, and passes, when it asks for the default', async () => {
    const defaults = {
      background: false,
      tools: [],
      tool_choice: 'auto',
      conversation: null,
      reasoning: { effort: null, summary: null },
      text: { format: { type: 'text' } },
      include: ['reasoning.encrypted_content'],
      stream_options: { include_obfuscation: false },
      max_tool_calls: 3,
      service_tier: 'auto',
    } as unknown as Params
    const client = openaiOf(await start())
    const [plain, full] = await Promise.all([
      client.responses.create(GREEDY),
      client.responses.create({ ...GREEDY, ...defaults }),
    ])
    expect(full.output_text).toBe(plain.output_text)
  })
})
