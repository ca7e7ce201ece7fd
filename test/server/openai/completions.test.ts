import type OpenAI from 'openai'
import { BadRequestError } from 'openai'
import { describe, expect, it } from 'vitest'
import { allOf, openaiOf } from '../../support/openai.js'
import { runningServers } from '../../support/server.js'

const start = runningServers({ speculation: { mode: 'medusa' } })

const PROMPT = 'export function add(a: number, b: number)'
const GREEDY = { model: 'demo', prompt: PROMPT, temperature: 0, max_tokens: 24 } as const

/** With what the OpenAI package's types do not know. */
type Extended<T> = T & { gorgon?: object } & Record<string, unknown>

describe('POST /v1/completions', () => {
  it('gives the text of the library', async () => {
    const server = await start()
    const { text, usage, finish } = await server.engine.generate(PROMPT, { maxTokens: 24 })
    const completion = await openaiOf(server).completions.create(GREEDY)
    expect(completion).toMatchObject({ object: 'text_completion', model: 'demo' })
    expect(completion.id).toMatch(/^cmpl-/)
    expect(completion.choices).toMatchObject([{ index: 0, text, finish_reason: finish, logprobs: null }])
    expect(completion.usage).toMatchObject({
      prompt_tokens: usage.prompt,
      completion_tokens: usage.completion,
      total_tokens: usage.prompt + usage.completion,
    })
  })

  it('makes 16 tokens where no limit is given, as OpenAI does', async () => {
    const { usage, choices } = await openaiOf(await start()).completions.create({
      model: 'demo',
      prompt: PROMPT,
      temperature: 0,
    })
    expect(usage!.completion_tokens).toBe(16)
    expect(choices[0]!.finish_reason).toBe('length')
  })

  it('streams the same text, a chunk per step, then the end and the usage', async () => {
    const server = await start()
    const client = openaiOf(server)
    const whole = await client.completions.create(GREEDY)
    const chunks = await allOf(
      await client.completions.create({ ...GREEDY, stream: true, stream_options: { include_usage: true } }),
    )
    const [usage, end, ...text] = chunks.toReversed()
    expect(
      text
        .toReversed()
        .map(({ choices }) => choices[0]!.text)
        .join(''),
    ).toBe(whole.choices[0]!.text)
    expect(text.every((chunk) => chunk.choices[0]!.finish_reason === null && chunk.usage === null)).toBe(true)
    expect(end!.choices[0]).toMatchObject({ text: '', finish_reason: whole.choices[0]!.finish_reason })
    // What was drafted depends on what steps cost just then.
    const { completion_tokens_details: _, ...counts } = whole.usage!
    expect(usage).toMatchObject({ choices: [], usage: counts })
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1)
    const { steps } = (end!.choices[0] as unknown as { gorgon: { speculation: { steps: number } } }).gorgon.speculation
    expect(text.length).toBeLessThanOrEqual(steps)
    expect(steps).toBeLessThan(whole.usage!.completion_tokens)
  })

  it('counts usage in every chunk when asked to', async () => {
    const client = openaiOf(await start())
    const options = { include_usage: true, continuous_usage_stats: true }
    const request: Extended<OpenAI.CompletionCreateParamsStreaming> = {
      ...GREEDY,
      stream: true,
      stream_options: options,
    }
    const chunks = await allOf(await client.completions.create(request))
    const counts = chunks.map(({ usage }) => usage!.completion_tokens)
    expect(counts).toEqual(counts.toSorted((a, b) => a - b))
    expect(counts.at(-1)).toBe(24)
    expect(new Set(chunks.map(({ usage }) => usage!.prompt_tokens)).size).toBe(1)
  })

  it('answers several prompts, each as it would alone, and sums their usage', async () => {
    const client = openaiOf(await start())
    const prompts = [PROMPT, 'import { readFile }', 'const x = 1\n']
    const together = await client.completions.create({ ...GREEDY, prompt: prompts })
    const alone = await Promise.all(prompts.map((prompt) => client.completions.create({ ...GREEDY, prompt })))
    expect(together.choices.map(({ index }) => index)).toEqual([0, 1, 2])
    expect(together.choices.map(({ text }) => text)).toEqual(alone.map(({ choices }) => choices[0]!.text))
    const sum = alone.reduce((total, { usage }) => total + usage!.total_tokens, 0)
    expect(together.usage!.total_tokens).toBe(sum)
  })

  it('takes token ids, one prompt or several', async () => {
    const server = await start()
    const ids = Array.from(await server.engine.tokenize(PROMPT))
    const { text } = await server.engine.generate(ids, { maxTokens: 24 })
    const one = await openaiOf(server).completions.create({ ...GREEDY, prompt: ids })
    const two = await openaiOf(server).completions.create({ ...GREEDY, prompt: [ids, ids] })
    expect([...one.choices, ...two.choices].map((choice) => choice.text)).toEqual([text, text, text])
  })

  it('makes n choices that differ, and the same ones again for the same seed', async () => {
    const server = await start()
    const client = openaiOf(server)
    const request = { ...GREEDY, temperature: 1, seed: 7, n: 3 }
    const first = await client.completions.create(request)
    const again = await client.completions.create(request)
    const texts = first.choices.map(({ text }) => text)
    expect(new Set(texts).size).toBe(3)
    expect(again.choices.map(({ text }) => text)).toEqual(texts)
    const seeds = [7, 8, 9]
    const alone = await Promise.all(
      seeds.map((seed) => server.engine.generate(PROMPT, { maxTokens: 24, temperature: 1, seed })),
    )
    expect(texts).toEqual(alone.map(({ text }) => text))
    expect(first.usage!.prompt_tokens).toBe(alone[0]!.usage.prompt)
  })

  it('streams n choices side by side, told apart by their index', async () => {
    const client = openaiOf(await start())
    const request = { ...GREEDY, temperature: 1, seed: 7, n: 2 }
    const { choices } = await client.completions.create(request)
    const texts = ['', '']
    const ends: (string | null)[] = []
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      const [choice] = chunk.choices
      texts[choice!.index] += choice!.text
      if (choice!.finish_reason) ends[choice!.index] = choice!.finish_reason
    }
    expect(texts).toEqual(choices.map(({ text }) => text))
    expect(ends).toEqual(choices.map((choice) => choice.finish_reason))
  })

  it('names the seed it chose, with which the same request gives the same text', async () => {
    const client = openaiOf(await start())
    const request = { ...GREEDY, temperature: 1 }
    const first = await client.completions.create(request)
    const { seed } = (first.choices[0] as unknown as { gorgon: { seed: number } }).gorgon
    const again = await client.completions.create({ ...request, seed })
    expect(again.choices[0]!.text).toBe(first.choices[0]!.text)
  })

  it('leaves the stop string out, and says that it stopped', async () => {
    const server = await start()
    const { text } = await server.engine.generate(PROMPT, { maxTokens: 24 })
    const stop = text.slice(8, 11)
    const { choices } = await openaiOf(server).completions.create({ ...GREEDY, stop })
    expect(choices[0]).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: 'stop' })
  })

  it('gives log-probabilities side by side, with offsets into the text', async () => {
    const server = await start()
    const client = openaiOf(server)
    const result = await server.engine.generate(PROMPT, { maxTokens: 24, logprobs: 3 })
    const { choices } = await client.completions.create({ ...GREEDY, logprobs: 3 })
    const { text, logprobs } = choices[0]!
    expect(logprobs!.tokens).toEqual(result.logprobs!.map(({ token }) => token))
    expect(logprobs!.token_logprobs).toEqual(result.logprobs!.map(({ logprob }) => logprob))
    expect(logprobs!.top_logprobs!.every((top) => Object.keys(top).length <= 4)).toBe(true)
    for (const [i, token] of logprobs!.tokens!.entries()) {
      expect(logprobs!.top_logprobs![i]).toHaveProperty([token])
      expect(text.slice(logprobs!.text_offset![i]).startsWith(token)).toBe(true)
    }
    const streamed = await allOf(await client.completions.create({ ...GREEDY, logprobs: 3, stream: true }))
    expect(streamed.flatMap((chunk) => chunk.choices[0]!.logprobs?.text_offset ?? [])).toEqual(logprobs!.text_offset)
  })

  it('puts the library’s report into each choice', async () => {
    const { choices } = await openaiOf(await start()).completions.create(GREEDY)
    const { gorgon } = choices[0] as unknown as { gorgon: object }
    expect(gorgon).toMatchObject({
      finish: 'length',
      seed: null,
      speculation: { used: true },
      kv: { policy: 'snapkv' },
      timing: { e2eMs: expect.any(Number) },
    })
  })

  it('takes options of the engine in one object', async () => {
    const client = openaiOf(await start())
    const request: Extended<OpenAI.CompletionCreateParamsNonStreaming> = {
      ...GREEDY,
      gorgon: { speculation: { mode: 'off' }, timeoutMs: 60_000, maxTokens: 5 },
    }
    const { choices, usage } = await client.completions.create(request)
    expect((choices[0] as unknown as { gorgon: { speculation: object } }).gorgon.speculation).toMatchObject({
      used: false,
    })
    expect(usage!.completion_tokens).toBe(5)
    expect(usage!.completion_tokens_details).toEqual({ accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 })
  })

  it('counts drafts that came true and drafts that did not', async () => {
    const { usage, choices } = await openaiOf(await start()).completions.create(GREEDY)
    const { speculation } = (choices[0] as unknown as { gorgon: { speculation: { steps: number; drafted: number } } })
      .gorgon
    const details = usage!.completion_tokens_details!
    expect(details.accepted_prediction_tokens).toBe(usage!.completion_tokens - speculation.steps)
    expect(details.accepted_prediction_tokens! + details.rejected_prediction_tokens!).toBe(speculation.drafted)
  })

  it('takes what servers like this one take beside OpenAI’s fields', async () => {
    const server = await start()
    const request: Extended<OpenAI.CompletionCreateParamsNonStreaming> = {
      ...GREEDY,
      temperature: 0.8,
      seed: 3,
      top_k: 40,
      min_p: 0.05,
      repetition_penalty: 1.1,
      ignore_eos: true,
      min_tokens: 24,
      stop_token_ids: [],
      best_of: 1,
      echo: false,
      skip_special_tokens: true,
      user: 'somebody',
    }
    const { choices } = await openaiOf(server).completions.create(request)
    const { text } = await server.engine.generate(PROMPT, {
      maxTokens: 24,
      temperature: 0.8,
      seed: 3,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      ignoreEos: true,
      minTokens: 24,
    })
    expect(choices[0]!.text).toBe(text)
  })

  const refused: readonly (readonly [string, object])[] = [
    ['echo', { echo: true }],
    ['suffix', { suffix: '}' }],
    ['best_of', { best_of: 3 }],
    ['priority', { priority: 1 }],
    ['guided_json', { guided_json: { type: 'object' } }],
    ['response_format', { response_format: { type: 'json_object' } }],
    ['include_stop_str_in_output', { include_stop_str_in_output: true }],
  ]

  it.each(refused)('refuses %s, which would need another text', async (field, extra) => {
    const failing = openaiOf(await start()).completions.create({ ...GREEDY, ...extra })
    await expect(failing).rejects.toThrow(BadRequestError)
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_UNSUPPORTED', param: field })
  })

  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['max_token', { max_token: 3 }, /Did you mean "max_tokens"/],
    ['temperature', { temperature: -1 }, /temperature is -1/],
    ['n', { n: 9 }, /9 choices/],
    ['n', { n: 3, prompt: ['a', 'b', 'c'] }, /9 choices/],
    ['prompt', { prompt: [] }, /prompt/],
    ['prompt', { prompt: null }, /prompt/],
    ['logprobs', { logprobs: 21 }, /logprobs is 21/],
    ['seed', { seed: -1 }, /seed is -1/],
    ['gorgon.kv.budgt', { gorgon: { kv: { budgt: 3 } } }, /Did you mean "budget"/],
  ]

  it.each(wrong)('says what is wrong about %s', async (field, extra, message) => {
    const failing = openaiOf(await start()).completions.create({ ...GREEDY, ...extra } as typeof GREEDY)
    await expect(failing).rejects.toMatchObject({ status: 400, param: field, message: expect.stringMatching(message) })
  })

  it('ends every generation of a request when one cannot be served', async () => {
    const server = await start()
    const failing = openaiOf(server).completions.create({ ...GREEDY, max_tokens: 4000, prompt: [PROMPT, ''] })
    await expect(failing).rejects.toMatchObject({ status: 400, code: 'ERR_EMPTY_PROMPT' })
    expect(server.engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })
})
