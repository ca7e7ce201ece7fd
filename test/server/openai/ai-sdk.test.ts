// The server behind Vercel's AI SDK: its provider for OpenAI-compatible servers, by the interface that all its functions use.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import type { LanguageModelV3, LanguageModelV3Prompt, LanguageModelV3StreamPart } from '@ai-sdk/provider'
import { describe, expect, it } from 'vitest'
import { type RunningServer, runningServers } from '../../support/server.js'

const start = runningServers({ speculation: { mode: 'medusa' } })

const PROMPT: LanguageModelV3Prompt = [
  { role: 'system', content: '// Arithmetic' },
  { role: 'user', content: [{ type: 'text', text: 'export function add(a: number, b: number) {' }] },
]
const CALL = { prompt: PROMPT, temperature: 0, maxOutputTokens: 24 }

const chatModel = ({ url }: RunningServer, apiKey = 'a-key-of-tests'): LanguageModelV3 =>
  createOpenAICompatible({ name: 'gorgon', baseURL: `${url}/v1`, apiKey, includeUsage: true }).chatModel('demo')

async function expected(server: RunningServer): Promise<string> {
  const messages = [
    { role: 'system', content: '// Arithmetic' },
    { role: 'user', content: 'export function add(a: number, b: number) {' },
  ]
  return (await server.engine.generate(messages, { maxTokens: 24 })).text
}

async function parts(stream: ReadableStream<LanguageModelV3StreamPart>): Promise<LanguageModelV3StreamPart[]> {
  const all: LanguageModelV3StreamPart[] = []
  for await (const part of stream) all.push(part)
  return all
}

describe('doGenerate', () => {
  it('gives the text of the library, its usage and why it ended', async () => {
    const server = await start()
    const { content, finishReason, usage, warnings } = await chatModel(server).doGenerate(CALL)
    expect(content).toEqual([{ type: 'text', text: await expected(server) }])
    expect(finishReason).toMatchObject({ unified: 'length', raw: 'length' })
    expect(usage.outputTokens.total).toBe(24)
    expect(usage.inputTokens.total).toBeGreaterThan(0)
    expect(warnings).toEqual([])
  })

  it('passes on stop sequences, penalties and seeds', async () => {
    const server = await start()
    const settings = { temperature: 0.9, seed: 5, topP: 0.95, frequencyPenalty: 0.3, presencePenalty: 0.1 }
    const { content } = await chatModel(server).doGenerate({ ...CALL, ...settings, stopSequences: ['\n\n'] })
    const { text } = await server.engine.generate(
      [
        { role: 'system', content: '// Arithmetic' },
        { role: 'user', content: 'export function add(a: number, b: number) {' },
      ],
      { maxTokens: 24, stop: ['\n\n'], ...settings },
    )
    expect(content).toEqual(text === '' ? [] : [{ type: 'text', text }])
  })

  it('fails as its callers expect: an APICallError that says whether to try again', async () => {
    const server = await start({ keys: ['the-right-key'] })
    await expect(chatModel(server).doGenerate(CALL)).rejects.toMatchObject({
      name: 'AI_APICallError',
      statusCode: 401,
      isRetryable: false,
    })
    expect((await chatModel(server, 'the-right-key').doGenerate(CALL)).content).toHaveLength(1)
  })

  it('is told what the server does not do', async () => {
    const failing = chatModel(await start()).doGenerate({ ...CALL, responseFormat: { type: 'json' } })
    await expect(failing).rejects.toMatchObject({
      statusCode: 400,
      message: expect.stringMatching(/response_format is not supported/),
    })
  })
})

describe('doStream', () => {
  it('streams the same text, then the usage', async () => {
    const server = await start()
    const { stream } = await chatModel(server).doStream(CALL)
    const all = await parts(stream)
    const text = all.flatMap((part) => (part.type === 'text-delta' ? [part.delta] : [])).join('')
    expect(text).toBe(await expected(server))
    expect(all.at(-1)).toMatchObject({
      type: 'finish',
      finishReason: { unified: 'length' },
      usage: { outputTokens: { total: 24 } },
    })
    expect(all.filter(({ type }) => type === 'error')).toEqual([])
  })

  it('ends the generation when its reader aborts', async () => {
    const server = await start()
    const controller = new AbortController()
    const { stream } = await chatModel(server).doStream({
      ...CALL,
      maxOutputTokens: 15_000,
      abortSignal: controller.signal,
      providerOptions: { gorgon: { ignore_eos: true } },
    })
    const reader = stream.getReader()
    for (let seen = 0; seen < 5; seen++) await reader.read()
    expect(server.engine.stats().running).toBe(1)
    controller.abort()
    await expect.poll(() => server.engine.stats(), { timeout: 5000 }).toMatchObject({ running: 0, queued: 0 })
  })
})

it('completes text by the model of completions, too', async () => {
  const server = await start()
  const provider = createOpenAICompatible({ name: 'gorgon', baseURL: `${server.url}/v1` })
  const { content } = await provider.completionModel('demo').doGenerate({
    prompt: [{ role: 'user', content: [{ type: 'text', text: 'const x = 1' }] }],
    temperature: 0,
    maxOutputTokens: 8,
  })
  expect(content).toMatchObject([{ type: 'text', text: expect.any(String) }])
})
