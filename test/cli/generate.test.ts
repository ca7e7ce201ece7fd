// gorgon generate, on the demo model: what it prints where, and the JSON and files scripts depend on.
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { errorLine, gorgon, Sink } from './command.js'

const PROMPT = 'export function add(a: number, b: number): number {\n  return '

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gorgon-generate-'))
})
afterAll(() => rm(folder, { recursive: true }))

async function json(...argv: string[]) {
  const { exitCode, stdout, stderr } = await gorgon(['generate', ...argv, '--json'])
  expect(stderr).toBe('')
  expect(exitCode).toBe(0)
  expect(stdout).toMatch(/^\{.*\}\n$/)
  return JSON.parse(stdout)
}

describe('text', () => {
  test('goes to standard output, exactly, and nothing else is said to a pipe', async () => {
    const { text } = await json(PROMPT, '--max-tokens', '24')
    expect(await gorgon(['generate', PROMPT, '--max-tokens', '24'])).toEqual({ exitCode: 0, stdout: text, stderr: '' })
  })

  test('a terminal gets progress and one line of summary, on standard error', async () => {
    const { text } = await json(PROMPT, '--max-tokens', '24')
    const { stdout, stderr } = await gorgon(['generate', PROMPT, '--max-tokens', '24'], { isTerminal: true })
    expect(stdout).toBe(text)
    expect(stderr).toContain('loading [')
    expect(stderr).toMatch(
      /\n24 tokens \(length\), [\d.]+ tokens\/s, [\d.]+ tokens\/step \((plain|\d+ nodes).*\), prompt rows kept (\d+) of \2 \(.*\)\n$/,
    )
  })

  test('the prompt may come from standard input', async () => {
    const { text } = await json(PROMPT, '--max-tokens', '8')
    const { stdout } = await gorgon(['generate', '--prompt-file', '-', '--max-tokens', '8'], { stdin: PROMPT })
    expect(stdout).toBe(text)
  })

  test('ends before a stop string', async () => {
    const { text, finish } = await json(PROMPT, '--max-tokens', '24', '--stop', 'zzz', '--stop', '\n')
    expect(finish).toBe('stop')
    expect(text).not.toContain('\n')
  })
})

describe('--json', () => {
  test('is one object of the stated shape', async () => {
    const result = await json(PROMPT, '--max-tokens', '32', '--ignore-eos')
    expect(result).toEqual({
      text: expect.any(String),
      tokens: expect.any(Array),
      promptTokens: expect.any(Number),
      finish: 'length',
      timing: {
        prefillMs: expect.any(Number),
        ttftMs: expect.any(Number),
        decodeMs: expect.any(Number),
        tokensPerSecond: expect.any(Number),
      },
      speculation: {
        steps: expect.any(Number),
        tokensPerStep: expect.any(Number),
        acceptedByDepth: expect.any(Array),
        tree: 'auto',
        nodes: expect.any(Number),
        gate: {
          decision: expect.stringMatching(/^(speculated|plain|mixed)$/),
          reason: expect.any(String),
          expectedSpeedup: expect.any(Number),
          plainSteps: expect.any(Number),
          probes: expect.any(Number),
        },
      },
      kv: {
        policy: 'snapkv',
        promptTokens: result.promptTokens,
        keptTokens: result.promptTokens,
        bytes: expect.any(Number),
        fullBytes: result.kv.bytes,
      },
      engine: {
        backend: 'cpu',
        isa: expect.any(String),
        device: null,
        dtype: 'bf16',
        weights: 'full',
        threads: expect.any(Number),
      },
    })
    expect(result.tokens).toHaveLength(32)
    expect(result.speculation.tokensPerStep * result.speculation.steps).toBeGreaterThanOrEqual(32)
  })

  test('flags reach the engine', async () => {
    const result = await json(
      PROMPT,
      '--max-tokens',
      '4',
      '--dtype',
      'f32',
      '--threads',
      '1',
      '--kv',
      'full',
      '--tree',
      'chain:2',
    )
    expect(result.engine).toMatchObject({ dtype: 'f32', threads: 1 })
    expect(result.kv.policy).toBe('full')
    expect(result.speculation.tree).toBe('chain:2')
  })
})

describe('speculation', () => {
  test.each([
    ['greedy', []],
    ['sampled', ['--temperature', '0.8', '--seed', '7']],
  ])('--plain gives the same tokens, one per step: %s', async (_name, flags) => {
    const flagsOfBoth = [PROMPT, '--max-tokens', '48', '--ignore-eos', ...flags]
    const fast = await json(...flagsOfBoth, '--mode', 'medusa')
    const plain = await json(...flagsOfBoth, '--plain')
    expect(plain.tokens).toEqual(fast.tokens)
    expect(plain.speculation).toMatchObject({ steps: 48, tokensPerStep: 1, acceptedByDepth: [] })
    expect(fast.speculation.steps).toBeLessThan(48)
  })

  test('--heads none has nothing to speculate with', async () => {
    expect((await json(PROMPT, '--max-tokens', '8', '--heads', 'none')).speculation.tokensPerStep).toBe(1)
  })

  test('a tree deeper than the heads is bad input', async () => {
    const { exitCode, stderr } = await gorgon(['generate', PROMPT, '--tree', 'chain:9'])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_TREE: .*9.*4/)
  })

  test('--plain and --mode say two things', async () => {
    const { exitCode, stderr } = await gorgon(['generate', PROMPT, '--plain', '--mode', 'medusa'])
    expect(exitCode).toBe(2)
    expect(stderr).toContain("'--plain' cannot be used with option '--mode")
  })

  test('a tree that does not exist is bad input even where none is used', async () => {
    const { exitCode, stderr } = await gorgon(['generate', PROMPT, '--plain', '--tree', 'nope'])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_TREE: .*"nope"/)
  })
})

describe('token ids', () => {
  test('are used as they are', async () => {
    const file = join(folder, 'ids.json')
    await writeFile(file, '[0, 382, 851, 33]')
    const { promptTokens, tokens } = await json('--prompt-ids', file, '--max-tokens', '4')
    expect(promptTokens).toBe(4)
    expect(tokens).toHaveLength(4)
  })

  test('do without a tokenizer, and are printed where there is no text', async () => {
    const model = join(folder, 'model')
    await mkdir(model)
    for (const name of ['config.json', 'generation_config.json', 'model.safetensors']) {
      await symlink(resolve('models/demo', name), join(model, name))
    }
    const file = join(folder, 'some-ids.json')
    await writeFile(file, '[0, 382, 851, 33]')
    const flags = ['--model', model, '--prompt-ids', file, '--max-tokens', '3']
    const { text, tokens } = await json(...flags)
    expect(text).toBe('')
    expect((await gorgon(['generate', ...flags])).stdout).toBe(tokens.map((id: number) => `${id} `).join(''))

    const { exitCode, stderr } = await gorgon(['generate', PROMPT, '--model', model])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_TOKENIZER: /)
  })

  test('outside the vocabulary are bad input', async () => {
    const file = join(folder, 'range.json')
    await writeFile(file, '[0, 4096]')
    const { exitCode, stderr } = await gorgon(['generate', '--prompt-ids', file])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_TOKEN_RANGE: .*4096/)
  })
})

describe('--dump-kept', () => {
  const long = Array.from({ length: 60 }, (_, i) => `export const value${i} = ${i * 7}\n`).join('')

  test('writes the rows kept: per layer and KV head, ascending, window excluded', async () => {
    const file = join(folder, 'kept.json')
    const { kv } = await json(long, '--max-tokens', '4', '--budget', '100', '--window', '16', '--dump-kept', file)
    const kept: number[][][] = JSON.parse(await readFile(file, 'utf8'))
    expect(kv.keptTokens).toBe(100)
    expect(kept).toHaveLength(6)
    for (const heads of kept) {
      expect(heads).toHaveLength(2)
      for (const rows of heads) {
        expect(rows).toHaveLength(84)
        expect(rows).toEqual([...new Set(rows)].sort((a, b) => a - b))
        expect(rows.at(-1)).toBeLessThan(kv.promptTokens - 16)
      }
    }
  })

  test('of a cache left whole is every row before the window', async () => {
    const file = join(folder, 'whole.json')
    const { kv } = await json(long, '--max-tokens', '4', '--kv', 'full', '--dump-kept', file)
    const kept: number[][][] = JSON.parse(await readFile(file, 'utf8'))
    const all = Array.from({ length: kv.promptTokens - 32 }, (_, i) => i)
    expect(kept).toEqual(Array.from({ length: 6 }, () => [all, all]))
  })

  test('into a folder that is not there is refused before anything runs', async () => {
    const { exitCode, stdout, stderr } = await gorgon([
      'generate',
      PROMPT,
      '--dump-kept',
      join(folder, 'no', 'kept.json'),
    ])
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_FILE: /)
  })
})

describe('interruption', () => {
  test('ends the generation, keeps what was printed, and is its own exit code', async () => {
    const abort = new AbortController()
    const stdout = new Sink()
    const original = stdout._write.bind(stdout)
    stdout._write = (chunk, encoding, done) => {
      original(chunk, encoding, done)
      if (stdout.text.length > 20) abort.abort()
    }
    const outcome = await gorgon(['generate', PROMPT, '--max-tokens', '4000', '--ignore-eos'], {
      stdout,
      signal: abort.signal,
    })
    expect(outcome.exitCode).toBe(130)
    expect(outcome.stderr).toBe('')
    expect(outcome.stdout.length).toBeGreaterThan(20)
    expect(outcome.stdout.length).toBeLessThan(4000)
  })

  test('before anything started prints nothing', async () => {
    const { exitCode, stdout, stderr } = await gorgon(['generate', PROMPT], { signal: AbortSignal.abort() })
    expect({ exitCode, stdout, stderr }).toEqual({ exitCode: 130, stdout: '', stderr: '' })
  })
})
