// Flags become checked options, and what cannot be read is refused with flag, value and what is allowed.
import { describe, expect, test } from 'vitest'
import { optionsOf, readGenerateOptions, readLoadOptions } from '../../src/cli/args.js'

const load = (given: Record<string, unknown>) => readLoadOptions(given, { model: 'demo' })
const generate = (given: Record<string, unknown>) => readGenerateOptions(given, {})

describe('reading', () => {
  test('nothing given is the defaults of the options', () => {
    expect(load({})).toMatchObject({
      model: 'demo',
      backend: 'auto',
      dtype: 'auto',
      threads: 0,
      speculation: { mode: 'auto', tree: 'auto', accept: { rule: 'exact' } },
      kv: { policy: 'snapkv', budget: 2048, window: 32, poolSize: 7, pool: 'max' },
    })
    expect(generate({})).toMatchObject({ maxTokens: 256, temperature: 0, topP: 1, topK: 0, stop: [] })
  })

  test('each flag sets its option', () => {
    expect(
      load({
        model: './m',
        heads: './h',
        backend: 'cpu',
        dtype: 'bf16',
        weights: 'int8',
        threads: '3',
        accept: 'typical',
        tree: 'mc_sim_7b_63',
        kv: 'h2o',
        budget: '100',
        window: '8',
        pool: 'avg',
        poolSize: '5',
      }),
    ).toMatchObject({
      model: './m',
      heads: './h',
      backend: 'cpu',
      dtype: 'bf16',
      weights: 'int8',
      threads: 3,
      speculation: { tree: 'mc_sim_7b_63', accept: { rule: 'typical' } },
      kv: { policy: 'h2o', budget: 100, window: 8, pool: 'avg', poolSize: 5 },
    })
    expect(
      generate({ maxTokens: '5', temperature: '0.8', topP: '.9', topK: '40', seed: '1', stop: ['a', 'b'] }),
    ).toMatchObject({ maxTokens: 5, temperature: 0.8, topP: 0.9, topK: 40, seed: 1n, stop: ['a', 'b'] })
  })

  test('"none" heads are no heads', () => {
    expect(load({ heads: 'none' }).heads).toBe(false)
  })

  test.each([
    ['1000', 1000],
    ['1B', 1],
    ['24GB', 24e9],
    ['24 gb', 24e9],
    ['1.5KiB', 1536],
    ['20GiB', 20 * 2 ** 30],
    ['1TB', 1e12],
  ])('--device-memory %s', (text, bytes) => {
    expect(load({ backend: 'cuda', device: '1', deviceMemory: text })).toMatchObject({ device: 1, deviceMemory: bytes })
  })

  test.each([
    ['16', 16],
    ['chain:3', 'chain:3'],
    ['auto', 'auto'],
  ])('tree %s', (text, tree) => {
    expect(load({ tree: text }).speculation.tree).toBe(tree)
  })

  test('seeds have 64 bits', () => {
    expect(generate({ seed: '18446744073709551615' }).seed).toBe(2n ** 64n - 1n)
  })

  test('what is set beforehand stays unless a flag says otherwise', () => {
    const base = { model: 'demo', speculation: { mode: 'off' as const }, kv: { reportKept: true } }
    const { speculation, kv } = readLoadOptions({ tree: '8', budget: '64' }, base)
    expect(speculation).toMatchObject({ mode: 'off', tree: 8 })
    expect(kv).toMatchObject({ reportKept: true, budget: 64 })
    expect(base).toEqual({ model: 'demo', speculation: { mode: 'off' }, kv: { reportKept: true } })
  })
})

describe('refusing', () => {
  const usage = (message: RegExp) =>
    expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringMatching(message) })

  test.each([
    ['threads', '-1', /^--threads is -1: use a whole number from 0 to 1024\.$/],
    ['threads', 'two', /^--threads is "two": use a whole number from 0 to 1024\.$/],
    ['device', '-1', /^--device is -1: use a whole number from 0 to 1023\.$/],
    [
      'deviceMemory',
      '0',
      /^--device-memory is "0": use a number of bytes, at least 1, or a size like 24GB or 20GiB\.$/,
    ],
    ['deviceMemory', '24 eggs', /^--device-memory is "24 eggs": use a number of bytes/],
    ['deviceMemory', '1iB', /^--device-memory is "1iB": use a number of bytes/],
    ['budget', '12x', /^--budget is "12x": use a whole number, at least 2\.$/],
    ['budget', '', /^--budget is "": use a whole number/],
    ['budget', '0x20', /^--budget is "0x20": use a whole number/],
    ['budget', '64.5', /^--budget is 64\.5: use a whole number/],
    ['poolSize', '4', /^--pool-size is 4: use an odd whole number from 1 to 255\.$/],
    ['kv', 'snapkw', /^--kv is "snapkw": use one of "full", .* Did you mean "snapkv"\?$/],
    ['backend', 'cdua', /^--backend is "cdua": .*Did you mean "cuda"\?$/],
    ['dtype', 'int4', /^--dtype is "int4": use one of "auto", "f32", "bf16", "f16"\.$/],
    ['weights', 'int4', /^--weights is "int4": use one of "full", "int8"\. Did you mean "int8"\?$/],
    ['accept', 'greedy', /^--accept is "greedy": use exact or typical\.$/],
    ['model', '', /^--model is "": use/],
    [
      'tree',
      '',
      /^--tree is "": use auto, the name of a tree, a number of nodes, chain:N, or a \.json file with the paths of one\.$/,
    ],
  ])('--%s %j', (key, text, message) => {
    expect(() => load({ [key]: text })).toThrow(usage(message))
  })

  test.each([
    ['maxTokens', '0', /^--max-tokens is 0: use a whole number, at least 1\.$/],
    ['maxTokens', 'Infinity', /^--max-tokens is "Infinity": use a whole number/],
    ['temperature', '-1', /^--temperature is -1: use 0 for greedy decoding, or a number from 0\.001 to 100\.$/],
    ['temperature', 'hot', /^--temperature is "hot": use 0 for greedy/],
    ['topP', '0', /^--top-p is 0: use a number above 0, at most 1\.$/],
    ['topK', '-1', /^--top-k is -1: use a whole number, at least 0\.$/],
    ['seed', '-1', /^--seed is "-1": use a whole number from 0 to 2\^64 - 1\.$/],
    ['seed', '18446744073709551616', /^--seed is "18446744073709551616": use/],
    ['seed', '1.5', /^--seed is "1.5": use/],
    ['stop', ['ok', ''], /^--stop is "ok", "": use text that is not empty\.$/],
  ])('--%s %j', (key, text, message) => {
    expect(() => generate({ [key]: text })).toThrow(usage(message))
  })

  test('rules between options are told in flags too', () => {
    expect(() => load({ budget: '16' })).toThrow(usage(/^--budget is 16, not larger than the window \(32\)/))
    expect(() => load({ window: '4000' })).toThrow(usage(/^--budget is 2048, not larger than the window \(4000\)/))
    expect(() => load({ backend: 'cpu', device: '0' })).toThrow(usage(/^--device is given, but backend is "cpu"/))
  })

  test('everything wrong is told at once', () => {
    expect(() => load({ threads: 'x', pool: 'min' })).toThrow(usage(/^--threads is "x".*\n--pool is "min"/))
  })
})

describe('help', () => {
  const all = [...optionsOf('load'), ...optionsOf('generate')]

  test('names the default of each option that has one', () => {
    const help = Object.fromEntries(all.map((option) => [option.long, option.description]))
    expect(help['--budget']).toContain('(default 2048)')
    expect(help['--kv']).toContain('(default snapkv)')
    expect(help['--accept']).toContain('(default exact)')
    expect(help['--seed']).not.toContain('default')
  })

  test('the values a flag lists are those its option takes', () => {
    const listed = all.flatMap((option) => {
      const names = /<([a-z0-9]+(?:\|[a-z0-9]+)+)>/.exec(option.flags)?.[1]?.split('|') ?? []
      return names.map((name) => [option.attributeName(), name] as const)
    })
    expect(listed.length).toBeGreaterThan(10)
    for (const [key, name] of listed) expect(() => load({ [key]: name })).not.toThrow()
    for (const key of ['backend', 'dtype', 'weights', 'kv', 'pool']) {
      const message = (() => {
        try {
          load({ [key]: '?' })
        } catch (error) {
          return (error as Error).message
        }
        return ''
      })()
      const allowed = [...message.matchAll(/"(\w+)"/g)].map((match) => match[1])
      expect(
        listed
          .filter(([other]) => other === key)
          .map(([, name]) => name)
          .sort(),
      ).toEqual(allowed.sort())
    }
  })
})
