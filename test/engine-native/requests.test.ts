// What a request may ask of the real addon, and what it gets: errors, limits, stops, log-probabilities, acceptance, sessions, two engines.
import { copyFile, mkdir, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ErrorCode } from '../../src/errors.js'
import { demoModel, type Engine, type GenerateOptions, loadEngine, packageRoot, type Result } from '../../src/index.js'
import { native } from '../../src/native.js'
import { hasCuda, isCpu, PROMPT_ROWS } from '../support/backend.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { forwardLogits, openModel } from '../support/native-session.js'
import { referenceIsa } from '../support/ops.js'
import { writeTinyHeads, writeTinyModel } from '../support/tiny-model.js'

const dir = temporaryFolder()
const PROMPT = '// path: src/list.ts\nexport class List<T> {\n  private items: T[] = []\n\n  add(item: T): void {\n'
/** Plain decoding, then trees of several shapes. */
const MODES = [{ mode: 'off' }, { tree: 'auto' }, { tree: 'mc_sim_7b_63' }, { tree: 'chain:4' }] as const

let engine: Engine
let tiny: Engine

beforeAll(async () => {
  engine = await loadEngine('demo')
  const model = await writeTinyModel(join(dir, 'tiny'), { seed: 3 })
  await writeTinyHeads(join(dir, 'tiny-heads'), model)
  tiny = await loadEngine({ model: join(dir, 'tiny'), heads: join(dir, 'tiny-heads'), limits: { maxContext: 64 } })
})
afterAll(() => Promise.all([engine.close(), tiny.close()]))

/** The result of a request, which must be the same with and without speculation. */
async function everyWay(prompt: Parameters<Engine['generate']>[0], options: GenerateOptions): Promise<Result> {
  const results: Result[] = []
  for (const speculation of MODES) results.push(await engine.generate(prompt, { ...options, speculation }))
  const decided = ({ text, tokens, finish, stopString, usage, logprobs }: Result) => ({
    text,
    tokens,
    finish,
    stopString,
    usage,
    logprobs,
  })
  for (const [i, result] of results.entries())
    expect(decided(result), JSON.stringify(MODES[i])).toEqual(decided(results[0]!))
  return results[0]!
}

describe('errors', () => {
  it('of requests, each with its code, and the engine goes on', async () => {
    const before = [...(await engine.generate(PROMPT, { maxTokens: 8 })).tokens]
    const cases: readonly (readonly [prompt: unknown, options: GenerateOptions, code: ErrorCode, says?: RegExp])[] = [
      [[], {}, 'ERR_EMPTY_PROMPT'],
      [new Int32Array(0), {}, 'ERR_EMPTY_PROMPT'],
      [[-1], {}, 'ERR_TOKEN_RANGE'],
      [[5, 4096], {}, 'ERR_TOKEN_RANGE', /token 1 is 4096/],
      [[1.5], {}, 'ERR_TOKEN_RANGE'],
      [[Number.NaN], {}, 'ERR_TOKEN_RANGE'],
      [[2 ** 32], {}, 'ERR_TOKEN_RANGE'],
      [new Int32Array(16384), {}, 'ERR_CONTEXT_OVERFLOW', /16384/],
      ['x '.repeat(30_000), {}, 'ERR_CONTEXT_OVERFLOW'],
      [[{ role: 'user' }], {}, 'ERR_OPTION'],
      [7, {}, 'ERR_OPTION'],
      [null, {}, 'ERR_OPTION'],
      ['x', { kv: { budget: 32, window: 32 } }, 'ERR_OPTION', /budget is 32.*window/],
      ['x', { kv: { budget: 16 } }, 'ERR_OPTION', /budget is 16.*window/],
      ['x', { kv: { policy: 'streaming', budget: 4 } }, 'ERR_OPTION', /sinks/],
      ['x', { speculation: { tree: 'chain:5' } }, 'ERR_TREE', /5.*4|4.*5/],
      ['x', { speculation: { tree: { paths: [[0, 0]] } } }, 'ERR_TREE'],
      ['x', { speculation: { tree: 65 } }, 'ERR_TREE'],
      ['x', { logitBias: { 4096: 1 } }, 'ERR_TOKEN_RANGE'],
      ['x', { stopTokenIds: [4096] }, 'ERR_TOKEN_RANGE'],
      ['x', { minTokens: 9, maxTokens: 8 }, 'ERR_OPTION'],
    ]
    for (const [prompt, options, code, says] of cases) {
      await failure(() => engine.generate(prompt as string, options), code, says)
    }
    expect([...(await engine.generate(PROMPT, { maxTokens: 8 })).tokens]).toEqual(before)
  })

  it('of models without a tokenizer', async () => {
    await failure(() => tiny.generate('text'), 'ERR_TOKENIZER')
    await failure(() => tiny.generate([5], { stop: 'x' }), 'ERR_TOKENIZER')
    await failure(() => tiny.tokenize('x'), 'ERR_TOKENIZER')
    const { text, tokens } = await tiny.generate([5], { maxTokens: 4, ignoreEos: true })
    expect(text).toBe('')
    expect(tokens).toHaveLength(4)
  })

  it('of loading, each with its code', async () => {
    const demo = demoModel()
    await writeFile(join(dir, 'heads.pt'), 'PK')
    const pickled = join(dir, 'pickled')
    await mkdir(pickled)
    await writeFile(join(pickled, 'config.json'), '{"medusa_num_heads": 3, "medusa_num_layers": 1}')
    await writeFile(join(pickled, 'medusa_lm_head.pt'), 'PK')
    const short = join(dir, 'short')
    await mkdir(short)
    await copyFile(join(demo, 'config.json'), join(short, 'config.json'))
    await copyFile(join(demo, 'model.safetensors'), join(short, 'model.safetensors'))
    await truncate(join(short, 'model.safetensors'), 2 ** 20)
    const cases: readonly (readonly [Parameters<typeof loadEngine>[0], ErrorCode, RegExp?])[] = [
      [join(dir, 'nowhere'), 'ERR_MODEL_NOT_FOUND', /nowhere/],
      [dir, 'ERR_MODEL_NOT_FOUND'],
      [short, 'ERR_SAFETENSORS'],
      [{ model: 'demo', heads: join(dir, 'tiny-heads') }, 'ERR_HEADS_MISMATCH', /384/],
      [{ model: join(dir, 'tiny'), heads: join(packageRoot(), 'heads', 'demo') }, 'ERR_HEADS_MISMATCH'],
      [{ model: 'demo', heads: join(dir, 'heads.pt') }, 'ERR_HEADS_FORMAT', /\.pt/],
      [{ model: 'demo', heads: pickled }, 'ERR_HEADS_FORMAT', /\.pt/],
      [{ model: 'demo', heads: join(dir, 'nowhere') }, 'ERR_FILE'],
      [{ model: 'demo', heads: false, speculation: { mode: 'medusa' } }, 'ERR_OPTION'],
      [{ model: 'demo', speculation: { tree: 'chain:5' } }, 'ERR_TREE'],
      [{ model: 'demo', limits: { maxContext: 16385 } }, 'ERR_OPTION', /16384/],
      [{ model: 'demo', isa: 'avx1024' }, 'ERR_OPTION'],
      ...(hasCuda ? [] : [[{ model: 'demo', backend: 'cuda' }, 'ERR_DEVICE'] as const]),
    ]
    for (const [options, code, says] of cases) await failure(() => loadEngine(options), code, says)
  })

  it('of a full queue', async () => {
    const small = await loadEngine({ model: join(dir, 'tiny'), limits: { maxSequences: 1, maxQueue: 1 } })
    const prompt = Array.from({ length: 3000 }, (_, i) => i % 128)
    const [running, waiting, refusedOne] = [1, 2, 3].map(() => small.generate(prompt, { maxTokens: 2 }))
    await failure(() => refusedOne!, 'ERR_QUEUE_FULL')
    await Promise.all([running, waiting])
    await small.close()
  })
})

describe('limits', () => {
  it('a prompt one short of the context leaves room for one token', async () => {
    const ids = Array.from({ length: 63 }, (_, i) => i)
    expect(await tiny.generate(ids, { maxTokens: 100, ignoreEos: true })).toMatchObject({
      finish: 'length',
      usage: { prompt: 63, completion: 1 },
    })
    await failure(() => tiny.generate([...ids, 1]), 'ERR_CONTEXT_OVERFLOW')
  })

  it('the context ends a generation, on the very token, whatever the tree', async () => {
    const lengths: number[] = []
    for (const tree of ['chain:1', 'chain:2', 'chain:3', { paths: [[0], [1], [0, 0], [0, 0, 0]] }] as const) {
      const { usage, finish } = await tiny.generate([1, 2, 3], {
        maxTokens: 1000,
        ignoreEos: true,
        speculation: { tree },
      })
      expect(finish).toBe('length')
      lengths.push(usage.completion)
    }
    expect(lengths).toEqual([61, 61, 61, 61])
  })

  it('maxTokens is met exactly', async () => {
    const { tokens: all } = await engine.generate(PROMPT, { maxTokens: 12, ignoreEos: true })
    for (let maxTokens = 1; maxTokens <= 7; maxTokens++) {
      const result = await everyWay(PROMPT, { maxTokens, ignoreEos: true })
      expect(result).toMatchObject({ finish: 'length', usage: { completion: maxTokens } })
      expect([...result.tokens]).toEqual([...all.subarray(0, maxTokens)])
    }
  })

  it('a budget of the prompt and more keeps all of it; a smaller one what it says', async () => {
    const prompt = (await engine.tokenize(PROMPT.repeat(6))).slice(0, 150)
    const full = await engine.generate(prompt, { maxTokens: 20, kv: { policy: 'full' } })
    const whole = await engine.generate(prompt, { maxTokens: 20, kv: { budget: 150 } })
    expect(whole.kv).toMatchObject({ promptTokens: 150, keptTokens: 150 })
    expect([...whole.tokens]).toEqual([...full.tokens])
    const small = await engine.generate(prompt, { maxTokens: 20, kv: { budget: 64, reportKept: true } })
    expect(small.kv).toMatchObject({ promptTokens: 150, keptTokens: 64 })
    expect(small.kv.kept![0]![0]).toHaveLength(32)
  })
})

describe('where a text ends', () => {
  const options: GenerateOptions = { maxTokens: 60, ignoreEos: true }

  it('a stop string ends it, and is no part of it', async () => {
    const { text } = await engine.generate(PROMPT, options)
    for (const [from, to] of [
      [0, 1],
      [7, 12],
      [20, 21],
      [33, 52],
    ] as const) {
      const stop = text.slice(from, to)
      const result = await everyWay(PROMPT, { ...options, stop })
      expect(result).toMatchObject({ finish: 'stop', stopString: stop, text: text.slice(0, text.indexOf(stop)) })
    }
    const two = [text.slice(30, 40), text.slice(10, 16)]
    const first = two.map((stop) => text.indexOf(stop)).toSorted((a, b) => a - b)[0]!
    expect((await everyWay(PROMPT, { ...options, stop: two })).text).toBe(text.slice(0, first))
    const never = await everyWay(PROMPT, { ...options, stop: 'no such text anywhere' })
    expect(never).toMatchObject({ finish: 'length', text })
    expect(never).not.toHaveProperty('stopString')
  })

  it('a stop id ends it, and is its last token', async () => {
    const { tokens } = await engine.generate(PROMPT, options)
    for (const at of [0, 1, 5, 17, 40]) {
      const id = tokens[at]!
      const length = tokens.indexOf(id) + 1
      const result = await everyWay(PROMPT, { ...options, stopTokenIds: [id] })
      expect(result).toMatchObject({ finish: 'stop', usage: { completion: length } })
      expect([...result.tokens]).toEqual([...tokens.subarray(0, length)])
      expect(result.text).toBe(engine.detokenize(tokens.subarray(0, length - 1)).slice(0, result.text.length))
    }
  })

  it('the end of sequence ends it, unless told to ignore it, and not before minTokens', async () => {
    const always = { ...options, ignoreEos: false, logitBias: { 1: 100 } }
    const ended = await everyWay(PROMPT, always)
    expect(ended).toMatchObject({ finish: 'stop', text: '' })
    expect([...ended.tokens]).toEqual([1])
    for (const minTokens of [1, 2, 5, 6, 7, 20]) {
      const result = await everyWay(PROMPT, { ...always, minTokens })
      expect(result).toMatchObject({ finish: 'stop', usage: { completion: minTokens + 1 } })
      expect(result.tokens.indexOf(1)).toBe(minTokens)
    }
    const ignored = await everyWay(PROMPT, { ...always, ignoreEos: true, maxTokens: 9 })
    expect([...ignored.tokens]).toEqual(new Array(9).fill(1))
    const atTheLimit = await everyWay(PROMPT, { ...always, minTokens: 9, maxTokens: 9 })
    expect(atTheLimit).toMatchObject({ finish: 'length', usage: { completion: 9 } })
  })

  it('sampling changes none of that', async () => {
    const sampled = { ...options, temperature: 0.9, topP: 0.95, seed: 11 }
    const { text, tokens } = await everyWay(PROMPT, sampled)
    const stop = text.slice(12, 18)
    expect((await everyWay(PROMPT, { ...sampled, stop })).text).toBe(text.slice(0, text.indexOf(stop)))
    expect((await everyWay(PROMPT, { ...sampled, stopTokenIds: [tokens[9]!] })).finish).toBe('stop')
  })
})

describe('log-probabilities', () => {
  it.each([0, 0.9])('are those of the whole text under the model, at temperature %d', async (temperature) => {
    const prompt = [...(await engine.tokenize(PROMPT))]
    const { tokens, logprobs } = await everyWay(prompt, {
      maxTokens: 24,
      temperature,
      seed: 4,
      logprobs: 20,
      ignoreEos: true,
    })
    const model = await openModel(demoModel())
    const logits = forwardLogits(model, [...prompt, ...tokens])
    await native().close(model)
    // On a device a prompt and a step go through kernels of their own, which sum in other orders and round to bf16 after each operation: over
    // six layers differences of up to 0.17 were seen, at -8.5.
    const tolerance = isCpu ? 5e-5 : 0.3
    const expectNear = (value: number, expected: number) =>
      expect(Math.abs(value - expected), `${value}, expected ${expected}`).toBeLessThan(tolerance)
    for (const [i, { id, logprob, top, token }] of logprobs!.entries()) {
      expect(id).toBe(tokens[i])
      expect(token).toBe(engine.detokenize([id], { skipSpecial: false }).slice(-token.length))
      const row = logits.subarray((prompt.length + i - 1) * 4096, (prompt.length + i) * 4096)
      const peak = row.reduce((a, b) => Math.max(a, b))
      const logSum = Math.log(row.reduce((sum, x) => sum + Math.exp(x - peak), 0))
      const expected = (of: number) => row[of]! - peak - logSum
      expectNear(logprob, expected(id))
      expect(top).toHaveLength(20)
      for (const entry of top) expectNear(entry.logprob, expected(entry.id))
      const values = top.map((entry) => entry.logprob)
      expect(values).toEqual(values.toSorted((a, b) => b - a))
      expect(new Set(top.map((entry) => entry.id)).size).toBe(20)
      expect(values.reduce((sum, value) => sum + Math.exp(value), 0)).toBeLessThanOrEqual(1 + 1e-5)
      // What was chosen has the same value in the list.
      const listed = top.find((entry) => entry.id === id)
      if (listed) expect(listed.logprob).toBe(logprob)
      else expect(logprob).toBeLessThanOrEqual(values.at(-1)!)
      if (temperature === 0) expect(id).toBe(top[0]!.id)
    }
  })

  it('of the chosen tokens alone, or none', async () => {
    const { logprobs } = await everyWay(PROMPT, { maxTokens: 6, logprobs: 0 })
    expect(logprobs!.map(({ top }) => top)).toEqual(logprobs!.map(() => []))
    expect(await everyWay(PROMPT, { maxTokens: 6 })).not.toHaveProperty('logprobs')
  })

  it('do not depend on temperature, penalties or bias', async () => {
    const [first] = (await engine.generate(PROMPT, { maxTokens: 1, logprobs: 5 })).logprobs!
    const warped = {
      temperature: 2,
      seed: 1,
      repetitionPenalty: 1.3,
      frequencyPenalty: 1,
      logitBias: { [first!.id]: -100 },
    }
    const [other] = (await engine.generate(PROMPT, { maxTokens: 1, logprobs: 5, ...warped })).logprobs!
    expect(other!.top).toEqual(first!.top)
    expect(other!.id).not.toBe(first!.id)
  })
})

describe('acceptance', () => {
  const typical = { mode: 'medusa', accept: { rule: 'typical' }, tree: 'mc_sim_7b_63' } as const
  const options: GenerateOptions = { maxTokens: 120, ignoreEos: true }

  it('typical: repeatable, at least as many tokens a step, and labelled', async () => {
    const sampled = { ...options, temperature: 0.8, seed: 6 }
    const exact = await engine.generate(PROMPT, { ...sampled, speculation: { mode: 'medusa', tree: typical.tree } })
    const one = await engine.generate(PROMPT, { ...sampled, speculation: typical })
    const two = await engine.generate(PROMPT, { ...sampled, speculation: typical })
    expect([...two.tokens]).toEqual([...one.tokens])
    expect(exact.speculation.accept).toBe('exact')
    expect(one.speculation.accept).toBe('typical')
    expect(one.speculation.tokensPerStep).toBeGreaterThan(exact.speculation.tokensPerStep)
    expect(one.text).not.toBe(exact.text)
  })

  it('typical at temperature 0 is greedy, and says so', async () => {
    const plain = await engine.generate(PROMPT, { ...options, speculation: { mode: 'off' } })
    const result = await engine.generate(PROMPT, { ...options, speculation: { ...typical, mode: 'medusa' } })
    expect([...result.tokens]).toEqual([...plain.tokens])
    expect(result.speculation).toMatchObject({ accept: 'exact', used: true })
  })
})

describe('many at once', () => {
  it('each gets what it gets alone', async () => {
    const requests = Array.from({ length: 24 }, (_, i) => ({
      prompt: PROMPT.slice(0, 20 + 3 * i),
      options: {
        maxTokens: 10 + i,
        temperature: i % 3 === 0 ? 0 : 0.8,
        seed: i,
        ...(i % 4 === 1 && { kv: { budget: 40 } }),
        ...(i % 5 === 2 && { repetitionPenalty: 1.2 }),
        ...(i % 6 === 3 && { logprobs: 3 }),
        speculation: MODES[i % MODES.length]!,
      } satisfies GenerateOptions,
    }))
    const together = await Promise.all(requests.map(({ prompt, options }) => engine.generate(prompt, options)))
    for (const [i, { prompt, options }] of requests.entries()) {
      const alone = await engine.generate(prompt, options)
      expect([...together[i]!.tokens], `request ${i}`).toEqual([...alone.tokens])
      expect(together[i]!.logprobs).toEqual(alone.logprobs)
    }
  })

  it('engines do not notice each other', async () => {
    const other = await loadEngine({ model: 'demo', threads: 1, isa: referenceIsa, heads: false })
    const prompt = [...(await engine.tokenize(PROMPT))]
    const ids = prompt.map((id) => id % 128).slice(0, 20)
    const alone = [
      await engine.generate(prompt, { maxTokens: 40 }),
      await tiny.generate(ids, { maxTokens: 30, ignoreEos: true }),
    ]
    const together = await Promise.all([
      engine.generate(prompt, { maxTokens: 40 }),
      tiny.generate(ids, { maxTokens: 30, ignoreEos: true }),
      other.generate(prompt, { maxTokens: 40 }),
    ])
    expect([...together[0]!.tokens]).toEqual([...alone[0]!.tokens])
    expect([...together[1]!.tokens]).toEqual([...alone[1]!.tokens])
    expect([...together[2]!.tokens]).toEqual([...alone[0]!.tokens])
    const endless = engine.generate(PROMPT, { maxTokens: 100, ignoreEos: true })
    await other.close()
    expect((await endless).tokens).toHaveLength(100)
  })
})

describe('onPrefill', () => {
  it('rises to the total, in every chunk of every layer', async () => {
    const prompt = Int32Array.from({ length: 1300 }, (_, i) => 3 + ((i * 7) % 4000))
    const seen: { done: number; total: number }[] = []
    await engine.generate(prompt, { maxTokens: 1, onPrefill: (progress) => seen.push(progress) })
    const total = 1300 * 6
    const chunks = Math.ceil(1300 / PROMPT_ROWS)
    expect(seen.map(({ done }) => done)).toEqual(
      Array.from(
        { length: 6 * chunks },
        (_, i) => Math.floor(i / chunks) * 1300 + Math.min(1300, ((i % chunks) + 1) * PROMPT_ROWS),
      ),
    )
    expect(seen.every((progress) => progress.total === total)).toBe(true)
  })

  it('that throws fails its generation alone', async () => {
    const own = new Error('mine')
    const failing = engine.generate(PROMPT, {
      onPrefill() {
        throw own
      },
    })
    const other = engine.generate(PROMPT, { maxTokens: 5 })
    await expect(failing).rejects.toBe(own)
    expect((await other).tokens).toHaveLength(5)
    expect(engine.stats().running).toBe(0)
  })
})

describe('sessions', () => {
  it('plain: turns go on where the last one ended, as one long text would', async () => {
    const first = [...(await engine.tokenize(PROMPT))]
    const second = [...(await engine.tokenize('  remove(item: T): boolean {\n', { addSpecial: false }))]
    for (const speculation of MODES) {
      const session = engine.session({ kv: { policy: 'full' }, speculation })
      const one = await session.send(first, { maxTokens: 15, ignoreEos: true })
      const two = await session.send(second, { maxTokens: 15, ignoreEos: true })
      const whole = await engine.generate([...first, ...one.tokens, ...second], {
        maxTokens: 15,
        ignoreEos: true,
        kv: { policy: 'full' },
      })
      expect([...two.tokens]).toEqual([...whole.tokens])
      expect(two.usage.cached).toBe(first.length + 14)
      expect(session.stats().tokens).toBe(first.length + second.length + 30)
      await session.close()
      await failure(() => session.send('x'), 'ERR_CLOSED')
    }
  })

  it('go on after a turn that was cut short, in prefill or in decode', async () => {
    const session = engine.session()
    await session.send(PROMPT, { maxTokens: 10 })
    const { tokens } = session.stats()
    const controller = new AbortController()
    const long = Int32Array.from({ length: 2000 }, (_, i) => 3 + i)
    const cut = session.send(long, { signal: controller.signal, onPrefill: () => controller.abort() })
    await expect(cut).rejects.toThrow(/abort/i)
    expect(session.stats().tokens).toBe(tokens)
    const decoding = session.send(PROMPT, { maxTokens: 5000, ignoreEos: true, onAbort: 'return' })
    for await (const _ of decoding) break
    const { tokens: made } = await decoding.result()
    expect(session.stats().tokens).toBeGreaterThanOrEqual(tokens + made.length)
    const busy = session.send('a', { maxTokens: 5 })
    await failure(() => session.send('b'), 'ERR_BUSY')
    await busy
    expect((await session.send('// end', { maxTokens: 5, ignoreEos: true })).tokens).toHaveLength(5)
    await session.close()
  })

  it('chat: by a template, with the history in the cache', async () => {
    const chatTemplate = join(dir, 'roles.jinja')
    await writeFile(
      chatTemplate,
      '{{ bos_token }}{% for m in messages %}// {{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}// assistant: {% endif %}',
    )
    const chat = await loadEngine({ model: 'demo', chatTemplate })
    expect(chat.renderChat([{ role: 'user', content: 'hi' }])).toBe('<|begin_of_text|>// user: hi\n// assistant: ')
    const answers: string[][] = []
    for (const speculation of MODES) {
      const session = chat.session({ speculation })
      const one = await session.send({ role: 'user', content: 'sort the list' }, { maxTokens: 12, stop: '\n' })
      const two = await session.send({ role: 'user', content: 'now reverse it' }, { maxTokens: 12, stop: '\n' })
      expect(one.usage.cached).toBe(0)
      expect(session.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant'])
      expect(session.messages[1]!.content).toBe(one.text)
      await failure(() => session.send('plain text'), 'ERR_OPTION')
      answers.push([one.text, two.text])
      await session.close()
    }
    for (const answer of answers) expect(answer).toEqual(answers[0])
    await chat.close()
  })

  it("chat by the demo model's own template: an answer goes on where the text ends, and nothing is read twice", async () => {
    const [question, next] = ['export function add(', 'export function sub(']
    expect(
      engine.renderChat([
        { role: 'system', content: '// maths' },
        { role: 'user', content: question },
      ]),
    ).toBe(`// maths\n${question}`)
    const options = { maxTokens: 12 }
    const session = engine.session()
    const one = await session.send({ role: 'user', content: question }, options)
    expect(one.text).toBe((await engine.generate(question, options)).text)
    const two = await session.send({ role: 'user', content: next }, options)
    expect(engine.renderChat(session.messages)).toBe(`${question}${one.text}\n${next}${two.text}`)
    // The rows of the first turn stay: what is read is the answer's last token, and the new message.
    const message = await engine.tokenize(`\n${next}`, { addSpecial: false })
    expect(two.usage).toMatchObject({ cached: one.usage.prompt + one.tokens.length - 1, prompt: 1 + message.length })
    await session.close()
  })

  it('chat: not without a template', async () => {
    expect([engine.info.hasChatTemplate, tiny.info.hasChatTemplate]).toEqual([true, false])
    await failure(() => tiny.generate([{ role: 'user', content: 'hello' }]), 'ERR_CHAT_TEMPLATE', /chatTemplate/)
    await failure(
      () => loadEngine({ model: 'demo', heads: false, chatTemplate: join(dir, 'none.jinja') }),
      'ERR_CHAT_TEMPLATE',
      /none\.jinja: there is no such file/,
    )
  })
})
