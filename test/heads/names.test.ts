// Layouts of Medusa heads, recognised from tensor names alone; nothing is ever left over.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { headTensorShape, MAX_BLOCKS, MAX_MEDUSA_HEADS, recogniseHeads } from '../../heads/format/names.js'

const range = (n: number) => Array.from({ length: n }, (_, i) => i)
const linear = (heads: number, blocks: number, suffixes = ['weight', 'bias']) =>
  range(heads).flatMap((h) => range(blocks).flatMap((b) => suffixes.map((suffix) => `${h}.${b}.linear.${suffix}`)))
const projections = (heads: number, blocks: number) => range(heads).map((h) => `${h}.${blocks}.weight`)
const vllm = (heads: number, blocks: number, suffixes = ['weight']) =>
  range(heads).flatMap((h) =>
    range(blocks).flatMap((b) => suffixes.map((suffix) => `blocks.${h}.layers.${b}.${suffix}`)),
  )
const vllmProjections = (heads: number) => range(heads).map((h) => `lm_heads.${h}.weight`)

const recognised = (names: readonly string[], shares = false) => {
  const result = recogniseHeads(names, shares)
  if (!('layout' in result)) return expect.fail(result.problem)
  return result.layout
}
const problem = (names: readonly string[], shares = false) => {
  const result = recogniseHeads(names, shares)
  return 'problem' in result ? result.problem : expect.fail('recognised')
}

describe('recognised', () => {
  const cases: readonly (readonly [string, readonly string[], object])[] = [
    [
      'A',
      [...linear(5, 1), ...projections(5, 1)],
      { format: 'A', medusaHeads: 5, blocks: 1, projection: 'per-head', biasedBlocks: 5 },
    ],
    [
      'A, R = 0',
      projections(3, 0),
      { format: 'A', medusaHeads: 3, blocks: 0, projection: 'per-head', biasedBlocks: 0 },
    ],
    ['A, R = 3', [...linear(2, 3), ...projections(2, 3)], { format: 'A', medusaHeads: 2, blocks: 3, biasedBlocks: 6 }],
    ['A without biases', [...linear(2, 1, ['weight']), ...projections(2, 1)], { format: 'A', biasedBlocks: 0 }],
    [
      'B',
      linear(4, 1),
      { format: 'B', medusaHeads: 4, blocks: 1, projection: 'base', biasedBlocks: 4, tokenMap: null },
    ],
    ['B, one head', linear(1, 1), { format: 'B', medusaHeads: 1 }],
    [
      'C with projections',
      [...linear(3, 1), ...projections(3, 1)].map((n) => `medusa_head.${n}`),
      { format: 'A', medusaHeads: 3 },
    ],
    ['C without', linear(3, 1).map((n) => `medusa_head.${n}`), { format: 'B', medusaHeads: 3 }],
    [
      'E',
      [...vllm(5, 1), ...vllmProjections(5)],
      { format: 'E', medusaHeads: 5, blocks: 1, projection: 'per-head', biasedBlocks: 0 },
    ],
    [
      'E with biases',
      [...vllm(2, 2, ['weight', 'bias']), ...vllmProjections(2)],
      { format: 'E', blocks: 2, biasedBlocks: 4 },
    ],
    [
      'E under its prefix',
      [...vllm(2, 1), ...vllmProjections(2)].map((n) => `medusa_heads.${n}`),
      { format: 'E', medusaHeads: 2 },
    ],
    ['E, one projection', [...vllm(3, 1), 'lm_head.weight'], { format: 'E', medusaHeads: 3, projection: 'shared' }],
    ['E without projections', vllm(3, 1), { format: 'E', projection: 'base' }],
    ['a token map', [...linear(1, 1), ...projections(1, 1), 'token_map'], { format: 'A', tokenMap: 'token_map' }],
  ]
  test.each(cases)('%s', (_, names, expected) => {
    expect(recognised(names)).toMatchObject(expected)
  })

  test('one stored projection of E serves all heads when the configuration says so', () => {
    const layout = recognised([...vllm(3, 1), 'lm_heads.0.weight'], true)
    expect(layout.projection).toBe('shared')
    expect(layout.tensors.filter(({ part }) => part === 'projection').map(({ name, role }) => [role, name])).toEqual([
      ['0.projection', 'lm_heads.0.weight'],
      ['1.projection', 'lm_heads.0.weight'],
      ['2.projection', 'lm_heads.0.weight'],
    ])
  })

  test('roles follow the names, whatever their order', () => {
    const names = [...linear(3, 2), ...projections(3, 2)]
    fc.assert(
      fc.property(fc.shuffledSubarray(names, { minLength: names.length }), (shuffled) => {
        const layout = recognised(shuffled)
        const role = (name: string) => layout.tensors.find((t) => t.name === name)?.role
        expect(role('2.1.linear.weight')).toBe('2.block.1.weight')
        expect(role('0.1.linear.bias')).toBe('0.block.1.bias')
        expect(role('1.2.weight')).toBe('1.projection')
      }),
    )
  })
})

describe('every name has its place, or the file is refused', () => {
  test('any subset of a layout is either recognised whole or refused', () => {
    const names = [...linear(3, 2), ...projections(3, 2), 'token_map']
    fc.assert(
      fc.property(fc.subarray(names), (subset) => {
        const result = recogniseHeads(subset)
        if (!('layout' in result)) return
        const used = new Set([...result.layout.tensors.map(({ name }) => name), result.layout.tokenMap])
        for (const name of subset) expect(used.has(name), name).toBe(true)
      }),
      { numRuns: 500 },
    )
  })

  test.each([
    ['nothing', [], /no Medusa heads/],
    ['only a token map', ['token_map'], /no Medusa heads/],
    ['an unknown name', [...linear(1, 1), 'optimizer.step'], /"optimizer\.step"/],
    ['a leading zero', ['00.0.linear.weight'], /"00\.0\.linear\.weight"/],
    ['a negative index', ['-1.0.linear.weight'], /no known layout/],
    ['an index past any count', ['99999.0.linear.weight'], /no known layout/],
    ['too many heads', [`${MAX_MEDUSA_HEADS}.0.linear.weight`], /names 64 heads; at most 63/],
    ['too many blocks', [`0.${MAX_BLOCKS}.linear.weight`], /names 17 blocks/],
    ['a missing head', ['0.0.linear.weight', '2.0.linear.weight'], /lacks "1\.0\.linear\.weight"/],
    [
      'a missing block',
      ['0.0.linear.weight', '0.1.linear.weight', '1.0.linear.weight'],
      /lacks "1\.1\.linear\.weight"/,
    ],
    ['a bias alone', ['0.0.linear.bias'], /lacks "0\.0\.linear\.weight"/],
    ['a projection of some heads only', [...linear(2, 1), '0.1.weight'], /lacks "1\.1\.weight"/],
    ['a projection before the last block', [...linear(1, 2), '0.1.weight'], /expected 0\.2\.weight/],
    ['two projections of one head', [...linear(1, 1), '0.1.weight', '0.2.weight'], /"0\.2\.weight"/],
    [
      'one tensor under two names',
      ['0.0.linear.weight', 'medusa_head.0.0.linear.weight'],
      /"medusa_head\.0\.0\.linear\.weight"/,
    ],
    ['two token maps', [...linear(1, 1), 'token_map', 'medusa_heads.token_map'], /"medusa_heads\.token_map"/],
    ['two layouts', [...linear(1, 1), ...vllm(1, 1)], /mixes two layouts/],
    ['two kinds of projection', [...vllm(1, 1), 'lm_head.weight', 'lm_heads.0.weight'], /which one projects/],
    ['one projection for three heads, unsaid', [...vllm(3, 1), 'lm_heads.0.weight'], /lacks "lm_heads\.1\.weight"/],
  ] as const)('%s', (_, names, says) => {
    expect(problem(names)).toMatch(says)
  })
})

test('shapes', () => {
  expect(headTensorShape('weight', 8, 100)).toEqual([8, 8])
  expect(headTensorShape('bias', 8, 100)).toEqual([8])
  expect(headTensorShape('projection', 8, 100)).toEqual([100, 8])
})
