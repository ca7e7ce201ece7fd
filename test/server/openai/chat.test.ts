import type OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { loadEngine } from '../../../src/index.js'
import { allOf, openaiOf } from '../../support/openai.js'
import { runningServers } from '../../support/server.js'

const start = runningServers({ speculation: { mode: 'medusa' } })

const MESSAGES = [
  { role: 'system', content: '// A small library of arithmetic.' },
  { role: 'user', content: 'export function add(a: number, b: number): number {' },
] satisfies OpenAI.ChatCompletionMessageParam[]
const GREEDY = { model: 'demo', messages: MESSAGES, temperature: 0, max_completion_tokens: 24 } as const

type Request = OpenAI.ChatCompletionCreateParamsNonStreaming
type Report = { gorgon: { seed: number | null; finish: string; speculation: { steps: number } } }
const reportOf = (choice: unknown): Report['gorgon'] => (choice as Report).gorgon

describe('POST /v1/chat/completions', () => {
  it('gives the text of the library', async () => {
    const server = await start()
    const { text, usage, finish } = await server.engine.generate(MESSAGES, { maxTokens: 24 })
    const completion = await openaiOf(server).chat.completions.create(GREEDY)
    expect(completion).toMatchObject({ object: 'chat.completion', model: 'demo' })
    expect(completion.id).toMatch(/^chatcmpl-/)
    expect(completion.choices).toMatchObject([
      { index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: finish },
    ])
    expect(completion.usage).toMatchObject({
      prompt_tokens: usage.prompt,
      completion_tokens: usage.completion,
      prompt_tokens_details: { cached_tokens: 0 },
    })
  })

  it('streams the role, then the same text, then the end', async () => {
    const client = openaiOf(await start())
    const whole = await client.chat.completions.create(GREEDY)
    const chunks = await allOf(await client.chat.completions.create({ ...GREEDY, stream: true }))
    expect(chunks[0]!.choices).toEqual([
      { index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
    ])
    expect(chunks.map(({ choices }) => choices[0]!.delta.content ?? '').join('')).toBe(
      whole.choices[0]!.message.content,
    )
    expect(chunks.slice(1).every(({ choices }) => choices[0]!.delta.role === undefined)).toBe(true)
    expect(chunks.at(-1)!.choices[0]).toMatchObject({ delta: {}, finish_reason: 'length' })
    expect(chunks.every((chunk) => chunk.object === 'chat.completion.chunk' && !('usage' in chunk))).toBe(true)
  })

  it('ends the stream with the usage when asked to, and with [DONE] always', async () => {
    const server = await start()
    const whole = await openaiOf(server).chat.completions.create(GREEDY)
    const answer = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...GREEDY, stream: true, stream_options: { include_usage: true } }),
    })
    expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    const events = (await answer.text()).split('\n\n').filter((event) => event !== '')
    expect(events.at(-1)).toBe('data: [DONE]')
    const usage = JSON.parse(events.at(-2)!.replace('data: ', ''))
    const { completion_tokens_details: _, ...counts } = whole.usage!
    expect(usage).toMatchObject({ choices: [], usage: counts })
  })

  it('streams log-probabilities that add up to those of the whole', async () => {
    const server = await start()
    const client = openaiOf(server)
    const request = { ...GREEDY, logprobs: true, top_logprobs: 2 }
    const whole = await client.chat.completions.create(request)
    const content = whole.choices[0]!.logprobs!.content!
    const streamed = await allOf(await client.chat.completions.create({ ...request, stream: true }))
    expect(streamed.flatMap(({ choices }) => choices[0]!.logprobs?.content ?? [])).toEqual(content)
    expect(content).toHaveLength(whole.usage!.completion_tokens)
    expect(content.every(({ top_logprobs }) => top_logprobs.length === 2)).toBe(true)
    const bytes = content.flatMap((token) => token.bytes!)
    expect(Buffer.from(bytes).toString()).toBe(whole.choices[0]!.message.content)
  })

  it('names the bytes of tokens that are parts of a character', async () => {
    const server = await start()
    const ids = Array.from(await server.engine.tokenize('日', { addSpecial: false }))
    expect(ids.length).toBeGreaterThan(1)
    const bias = Object.fromEntries(ids.map((id) => [id, 100]))
    const { choices } = await openaiOf(server).chat.completions.create({
      ...GREEDY,
      logit_bias: bias,
      max_completion_tokens: 3,
      logprobs: true,
    })
    const content = choices[0]!.logprobs!.content!
    expect(content.map(({ token }) => token)).toContain('\uFFFD')
    expect(content.every(({ bytes }) => bytes!.length === 1)).toBe(true)
    const known = ids.map((id) => [...server.engine.tokenBytes(id)])
    expect(known.flat()).toEqual([...Buffer.from('日')])
    expect(known).toContainEqual(content[0]!.bytes)
  })

  it('takes text in parts, a developer for the system, and messages as it gave them', async () => {
    const server = await start()
    const client = openaiOf(server)
    const first = await client.chat.completions.create(GREEDY)
    const parts: OpenAI.ChatCompletionMessageParam[] = [
      { role: 'developer', content: MESSAGES[0]!.content, name: 'project' },
      { role: 'user', content: [{ type: 'text', text: MESSAGES[1]!.content }] },
      first.choices[0]!.message,
      {
        role: 'user',
        content: [
          { type: 'text', text: 'export' },
          { type: 'text', text: 'function' },
        ],
      },
    ]
    const { text } = await server.engine.generate(
      [
        ...MESSAGES,
        { role: 'assistant', content: first.choices[0]!.message.content! },
        { role: 'user', content: 'export\nfunction' },
      ],
      { maxTokens: 24 },
    )
    const { choices } = await client.chat.completions.create({ ...GREEDY, messages: parts })
    expect(choices[0]!.message.content).toBe(text)
  })

  it('samples at temperature 1 unless told otherwise, as OpenAI does', async () => {
    const server = await start()
    const { choices } = await openaiOf(server).chat.completions.create({
      model: 'demo',
      messages: MESSAGES,
      max_tokens: 24,
      seed: 11,
    })
    const { text } = await server.engine.generate(MESSAGES, { maxTokens: 24, temperature: 1, seed: 11 })
    expect(choices[0]!.message.content).toBe(text)
    expect(reportOf(choices[0]).seed).toBe(11)
  })

  it('goes on to the end of the context where no limit is given', async () => {
    await using small = await loadEngine({ model: 'demo', threads: 1, limits: { maxContext: 64 } })
    const client = openaiOf(await start({ engine: small }))
    const request = { model: 'demo', messages: MESSAGES, temperature: 0, ignore_eos: true }
    const { choices, usage } = await client.chat.completions.create(request as Request)
    expect(usage!.total_tokens).toBe(64)
    expect(choices[0]!.finish_reason).toBe('length')
  })

  it('says "length" of a text that ran out of time', async () => {
    const { choices } = await openaiOf(await start()).chat.completions.create({
      ...GREEDY,
      max_completion_tokens: 16_000,
      ignore_eos: true,
      gorgon: { timeoutMs: 30 },
    } as Request)
    expect(choices[0]!.finish_reason).toBe('length')
    expect(reportOf(choices[0]).finish).toBe('timeout')
  })

  it('ignores what is for nobody here', async () => {
    const request: Request = {
      ...GREEDY,
      store: true,
      metadata: { a: 'b' },
      user: 'u',
      service_tier: 'auto',
      prompt_cache_key: 'k',
      safety_identifier: 's',
      parallel_tool_calls: true,
      tools: [],
      tool_choice: 'none',
      functions: [],
      response_format: { type: 'text' },
      modalities: ['text'],
      reasoning_effort: null,
      verbosity: null,
      audio: null,
      prediction: null,
      stop: null,
      logit_bias: null,
      stream: null,
      stream_options: null,
    }
    const client = openaiOf(await start())
    const plain = await client.chat.completions.create(GREEDY)
    const { choices } = await client.chat.completions.create(request)
    expect(choices[0]!.message.content).toBe(plain.choices[0]!.message.content)
  })

  const tool = { type: 'function', function: { name: 'f', parameters: {} } } as const
  const refused: readonly (readonly [string, Partial<Request>])[] = [
    ['tools', { tools: [tool] }],
    ['tool_choice', { tool_choice: 'required' }],
    ['functions', { functions: [{ name: 'f' }] }],
    ['response_format', { response_format: { type: 'json_object' } }],
    ['modalities', { modalities: ['text', 'audio'] }],
    ['audio', { audio: { format: 'wav', voice: 'alloy' } }],
    ['reasoning_effort', { reasoning_effort: 'high' }],
    ['web_search_options', { web_search_options: { search_context_size: 'low' } }],
    ['prediction', { prediction: { type: 'content', content: 'x' } }],
    ['messages[0].role', { messages: [{ role: 'tool', content: '1', tool_call_id: 'c' }] }],
    [
      'messages[0].content[1]',
      {
        messages: [
          {
            role: 'user',
            content: [
              { type: 'text', text: 'what is this?' },
              { type: 'image_url', image_url: { url: 'data:,' } },
            ],
          },
        ],
      },
    ],
    [
      'messages[0].tool_calls',
      {
        messages: [
          {
            role: 'assistant',
            content: null,
            tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '' } }],
          },
        ],
      },
    ],
    ['messages[0].content', { messages: [{ role: 'assistant', content: null }] }],
  ]

  it.each(refused)('refuses %s, naming it', async (param, extra) => {
    const failing = openaiOf(await start()).chat.completions.create({ ...GREEDY, ...extra })
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_UNSUPPORTED', param })
  })

  const wrong: readonly (readonly [string, object])[] = [
    ['messages', { messages: [] }],
    ['messages', { messages: undefined }],
    ['messages[0].role', { messages: [{ role: 'robot', content: 'x' }] }],
    ['messages[0].content', { messages: [{ role: 'user', content: 3 }] }],
    ['top_logprobs', { top_logprobs: 3 }],
    ['top_logprobs', { logprobs: true, top_logprobs: 21 }],
    ['max_completion_tokens', { max_completion_tokens: 0 }],
    ['stop', { stop: Array.from({ length: 65 }, (_, i) => `${i}`) }],
    ['stop', { stop: 'x'.repeat(1025) }],
    ['seed', { seed: '18446744073709551616' }],
    ['temprature', { temprature: 1 }],
  ]

  it.each(wrong)('says that %s is wrong', async (param, extra) => {
    const failing = openaiOf(await start()).chat.completions.create({ ...GREEDY, ...extra } as Request)
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_OPTION', param })
  })

  it('offers no role and no field that it would refuse', async () => {
    const client = openaiOf(await start())
    const robot = { ...GREEDY, messages: [{ role: 'robot', content: 'x' }] } as unknown as Request
    await expect(client.chat.completions.create(robot)).rejects.toThrow(
      /use one of "system", "developer", "user", "assistant"\./,
    )
    const unknown = client.chat.completions.create({ ...GREEDY, xyzzy: 1 } as Request)
    await expect(unknown).rejects.toThrow(/"xyzzy" is not an option here\. Known: (?!.*\btools\b).*\bmessages\b/)
  })
})
