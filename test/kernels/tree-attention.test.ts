// tree_attention: against its oracle, and every node the bits it would have if its path were plain text.
import { describe, expect, it } from 'vitest'
import { CHOICES } from '../../src/decode/choices.js'
import { buildTree } from '../../src/decode/tree.js'
import { treeAttention } from '../oracle/attention.js'
import type { Dtype } from '../oracle/dtype.js'
import {
  type AttentionInputs,
  type AttentionOptions,
  attentionInputs,
  attentionTolerance,
  HEAD_COUNTS,
  HEAD_WIDTHS,
  ROW_COUNTS,
  randomTree,
  runCausal,
  runTrees,
  type TreeShape,
  treeShape,
} from '../support/attention.js'
import { describeOnCpu, itOnCpu, POISONS } from '../support/backend.js'
import { expectClose, expectSameBits, type Place } from '../support/compare.js'
import { fastestIsa, isas, onEveryIsa } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']

type TreeOptions = Omit<AttentionOptions, 'tokens' | 'depths'> & { readonly nodes: number; readonly depth: number }

const nameOf = (o: TreeOptions): string =>
  `${o.dtype} N=${o.nodes} depth=${o.depth} R=${o.rows} Hq=${o.queryHeads} Hkv=${o.kvHeads} D=${o.headDim} window=${o.window ?? 0}`

interface Setup {
  random: Random
  tree: TreeShape
  inputs: AttentionInputs
  place: Place
}

function setup(o: TreeOptions, shape?: TreeShape): Setup {
  const random = new Random(`tree_attention ${nameOf(o)}`)
  const tree = shape ?? randomTree(random, o.nodes, o.depth)
  const inputs = attentionInputs(random, { ...o, tokens: o.nodes, depths: tree.depths })
  return { random, tree, inputs, place: { random, axes: { n: o.nodes, h: o.queryHeads, d: o.headDim } } }
}

function check(o: TreeOptions, shape?: TreeShape): void {
  const { tree, inputs, place } = setup(o, shape)
  const got = onEveryIsa(place, (isa, threads) => runTrees(isa, threads, [{ inputs, tree }])[0]!)
  expectClose(got, treeAttention(inputs, tree.parents), attentionTolerance(inputs), place)
}

/** Nodes from the root to a node. */
const pathOf = ({ paths, pathStride, depths }: TreeShape, node: number): number[] =>
  Array.from(paths.subarray(node * pathStride, node * pathStride + depths[node]! + 1))

/** The committed rows and some nodes behind them, as the rows of a case of its own. */
function withNodes(c: AttentionInputs, nodes: readonly number[]): AttentionInputs {
  const { kvHeads, queryHeads, headDim, rows, tokens, positions } = c
  const order = [...Array.from({ length: rows }, (_, row) => row), ...nodes.map((node) => rows + node)]
  const pick = (values: Float32Array | Int32Array, width: number) =>
    Array.from({ length: kvHeads }, (_, h) =>
      order.flatMap((row) => {
        const at = (h * (rows + tokens) + row) * width
        return Array.from(values.subarray(at, at + width))
      }),
    ).flat()
  const query = queryHeads * headDim
  return {
    ...c,
    tokens: nodes.length,
    k: Float32Array.from(pick(c.k, headDim)),
    v: Float32Array.from(pick(c.v, headDim)),
    positions: positions && Int32Array.from(pick(positions, 1)),
    q: Float32Array.from(nodes.flatMap((node) => Array.from(c.q.subarray(node * query, (node + 1) * query)))),
  }
}

describe('tree_attention against the oracle', () => {
  for (const dtype of DTYPES) {
    it(`${dtype}: every head width, every grouping`, () => {
      for (const headDim of HEAD_WIDTHS) {
        check({ dtype, headDim, queryHeads: 2, kvHeads: 1, rows: 37, nodes: 6, depth: 3 })
      }
      for (const [queryHeads, kvHeads] of HEAD_COUNTS) {
        check({ dtype, headDim: 16, queryHeads, kvHeads, rows: 130, nodes: 9, depth: 4 })
      }
    })

    it(`${dtype}: every number of rows around a chunk, the empty cache included`, () => {
      for (const rows of ROW_COUNTS) check({ dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, nodes: 7, depth: 5 })
    })

    it(`${dtype}: every number of nodes up to 64, one path of 64 included`, () => {
      for (const nodes of [1, 2, 15, 16, 17, 31, 32, 33, 63, 64]) {
        check({ dtype, headDim: 8, queryHeads: 2, kvHeads: 1, rows: 140, nodes, depth: 6 })
      }
      const chain = treeShape(Array.from({ length: 64 }, (_, node) => node - 1))
      for (const rows of [0, 31, 64, 65, 100, 127, 128]) {
        check({ dtype, headDim: 8, queryHeads: 2, kvHeads: 1, rows, nodes: 64, depth: 63 }, chain)
      }
    })

    it(`${dtype}: sliding windows, smaller than the tree is deep to larger than the cache`, () => {
      for (const window of [1, 2, 3, 5, 31, 128, 1000]) {
        check({ dtype, headDim: 16, queryHeads: 4, kvHeads: 2, rows: 150, nodes: 20, depth: 9, window })
        check({ dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows: 0, nodes: 20, depth: 9, window })
      }
    })
  }

  it('more query heads in a group than a block has rows', () => {
    check({ dtype: 'f32', headDim: 8, queryHeads: 100, kvHeads: 2, rows: 140, nodes: 3, depth: 2 })
  })

  for (const [name, choices] of Object.entries(CHOICES)) {
    it(`the named tree ${name}`, () => {
      const tree = buildTree(choices)
      const shape = treeShape(tree.parents)
      expect(shape.depths).toEqual(tree.depths)
      const nodes = tree.nodeCount
      check({ dtype: 'bf16', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 90, nodes, depth: tree.depth }, shape)
    })
  }
})

describe('tree_attention equals plain text, bit for bit', () => {
  const ROWS = [...ROW_COUNTS, 108, 110, 120, 126, 236, 250]
  const shapes: Omit<TreeOptions, 'rows'>[] = [
    { dtype: 'f32', headDim: 16, queryHeads: 2, kvHeads: 1, nodes: 30, depth: 20 },
    { dtype: 'f16', headDim: 8, queryHeads: 2, kvHeads: 2, nodes: 30, depth: 20 },
    { dtype: 'bf16', headDim: 16, queryHeads: 3, kvHeads: 1, nodes: 30, depth: 20 },
    { dtype: 'bf16', headDim: 40, queryHeads: 2, kvHeads: 1, nodes: 64, depth: 4 },
    { dtype: 'f32', headDim: 8, queryHeads: 2, kvHeads: 1, nodes: 30, depth: 20, window: 6 },
    { dtype: 'bf16', headDim: 8, queryHeads: 2, kvHeads: 1, nodes: 30, depth: 20, window: 50 },
    { dtype: 'bf16', headDim: 8, queryHeads: 2, kvHeads: 1, nodes: 30, depth: 20, window: 1000 },
  ]
  for (const shape of shapes) {
    const { dtype, nodes: count, depth, window = 0 } = shape
    const title = `every node as the last token of its path: ${dtype} N=${count} depth=${depth} D=${shape.headDim} window=${window}`
    itOnCpu(title, 'rows of a prompt go through a kernel of their own', () => {
      const width = shape.queryHeads * shape.headDim
      for (const rows of ROWS) {
        const { random, tree, inputs } = setup({ ...shape, rows })
        const leaves = Array.from(tree.parents, (_, node) => node).filter((node) => !tree.parents.includes(node))
        const reference = runTrees(fastestIsa, 2, [{ inputs, tree }])[0]!
        for (const isa of isas) {
          const nodes = isa === fastestIsa ? reference : runTrees(isa, 2, [{ inputs, tree }])[0]!
          // All of a path as one call of causal attention.
          for (const leaf of isa === fastestIsa ? leaves.slice(-8) : leaves.slice(-1)) {
            const path = pathOf(tree, leaf)
            const text = runCausal(isa, 1, withNodes(inputs, path))
            path.forEach((node, t) => {
              expectSameBits(nodes.slice(node * width, (node + 1) * width), text.slice(t * width, (t + 1) * width), {
                random,
                axes: { h: shape.queryHeads, d: shape.headDim },
                what: `${isa}, node ${node}`,
              })
            })
          }
        }
      }
    })
  }

  it('a node as the only one: the one-node tree of plain decoding, its ancestors committed', () => {
    for (const dtype of DTYPES) {
      for (const rows of [0, 30, 100, 120, 127]) {
        const o: TreeOptions = { dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, nodes: 24, depth: 12 }
        const { random, tree, inputs } = setup(o)
        for (const isa of isas) {
          const nodes = runTrees(isa, 1, [{ inputs, tree }])[0]!
          for (let node = 0; node < o.nodes; node++) {
            const path = pathOf(tree, node)
            const depth = path.length - 1
            const plain = withNodes(inputs, path)
            const last = {
              ...plain,
              rows: rows + depth,
              tokens: 1,
              position: inputs.position + depth,
              q: plain.q.slice(depth * 32),
            }
            const alone = runTrees(isa, 1, [{ inputs: last, tree: treeShape([-1]) }])[0]!
            const axes = { h: 2, d: 16 }
            expectSameBits(alone, nodes.slice(node * 32, (node + 1) * 32), {
              random,
              axes,
              what: `${isa}, node ${node}`,
            })
          }
        }
      }
    }
  })
})

describe('tree_attention, node by node', () => {
  it('a node has the same bits whatever else is in its tree', () => {
    const o: TreeOptions = { dtype: 'bf16', headDim: 16, queryHeads: 4, kvHeads: 2, rows: 150, nodes: 64, depth: 7 }
    const { random, tree, inputs } = setup(o)
    for (const isa of isas) {
      const whole = runTrees(isa, 2, [{ inputs, tree }])[0]!
      for (let node = 0; node < o.nodes; node += 7) {
        const path = pathOf(tree, node)
        const chain = treeShape(path.map((_, depth) => depth - 1))
        const alone = runTrees(isa, 1, [{ inputs: withNodes(inputs, path), tree: chain }])[0]!
        expectSameBits(alone.slice((path.length - 1) * 64), whole.slice(node * 64, (node + 1) * 64), {
          random,
          axes: { h: 4, d: 16 },
          what: `${isa}, node ${node}`,
        })
      }
    }
  })

  it('sessions of one call have the bits they have alone, whatever their number of rows', () => {
    for (const window of [0, 40]) {
      const shared = { dtype: 'bf16', headDim: 16, queryHeads: 4, kvHeads: 2, window } as const
      const items = [
        { rows: 0, nodes: 5, depth: 3 },
        { rows: 300, nodes: 1, depth: 1 },
        { rows: 127, nodes: 64, depth: 6 },
        { rows: 128, nodes: 20, depth: 4 },
        { rows: 31, nodes: 2, depth: 1 },
      ].map((o) => setup({ ...shared, ...o }))
      for (const isa of isas) {
        for (const threads of [1, 3]) {
          const together = runTrees(isa, threads, items)
          items.forEach((item, i) => {
            const what = `${isa} with ${threads} threads, session ${i}, window ${window}`
            expectSameBits(together[i]!, runTrees(isa, 1, [item])[0]!, { ...item.place, what })
          })
        }
      }
    }
  })
})

describeOnCpu('tree_attention on more threads than there is work for', 'it has no threads', () => {
  // One thread takes a block of rows over all chunks; several that would idle share its chunks out and merge what they left.
  const sameAsOneThread = (isa: string, items: readonly Setup[], axes: Place['axes'], counts = [2, 5]) => {
    const alone = runTrees(isa, 1, items)
    for (const threads of counts) {
      runTrees(isa, threads, items).forEach((together, i) => {
        const what = `${isa} with ${threads} threads, session ${i}`
        expectSameBits(together, alone[i]!, { random: items[i]!.random, axes, what })
      })
    }
  }

  for (const window of [0, 400]) {
    it(`every instruction set, a cache of several chunks, window ${window}`, () => {
      for (const dtype of DTYPES) {
        const o: TreeOptions = { dtype, headDim: 16, queryHeads: 3, kvHeads: 1, rows: 700, nodes: 20, depth: 6, window }
        for (const isa of isas) sameAsOneThread(isa, [setup(o)], { n: 20, h: 3, d: 16 })
      }
    })
  }

  it('caches longer than a wave of chunks, alone and beside shorter ones', () => {
    const shared = { dtype: 'bf16', headDim: 256, queryHeads: 8, kvHeads: 1, nodes: 12, depth: 4 } as const
    const items = [2700, 0, 1413].map((rows) => setup({ ...shared, rows }))
    sameAsOneThread(fastestIsa, items.slice(0, 1), { n: 12, h: 8, d: 256 }, [5])
    sameAsOneThread(fastestIsa, items, { n: 12, h: 8, d: 256 }, [16])
  })
})

describe('tree_attention and what it may not see', () => {
  it('rows behind the last node', () => {
    for (const dtype of DTYPES) {
      for (const rows of [0, 5, 31, 32, 100, 127, 128]) {
        const o: TreeOptions = { dtype, headDim: 16, queryHeads: 2, kvHeads: 1, rows, nodes: 9, depth: 4 }
        const { tree, inputs, place } = setup(o)
        const clean = runTrees(fastestIsa, 1, [{ inputs, tree }], 0)[0]!
        for (const poison of POISONS) {
          for (const isa of isas) {
            const got = runTrees(isa, 1, [{ inputs, tree }], poison)[0]!
            expectSameBits(got, clean, { ...place, what: `${isa}, poison ${poison}` })
          }
        }
      }
    }
  })

  itOnCpu('other branches, even when all they hold is NaN', 'zero times NaN is NaN', () => {
    const o: TreeOptions = { dtype: 'f32', headDim: 16, queryHeads: 2, kvHeads: 1, rows: 100, nodes: 30, depth: 8 }
    const { tree, inputs, place } = setup(o)
    const clean = runTrees(fastestIsa, 1, [{ inputs, tree }])[0]!
    const node = 11
    const spoiled = { ...inputs, q: inputs.q.slice(), k: inputs.k.slice(), v: inputs.v.slice() }
    spoiled.q.fill(Number.NaN, node * 32, (node + 1) * 32)
    spoiled.k.fill(Number.NaN, (100 + node) * 16, (101 + node) * 16)
    spoiled.v.fill(Number.NaN, (100 + node) * 16, (101 + node) * 16)
    const got = onEveryIsa(place, (isa, threads) => runTrees(isa, threads, [{ inputs: spoiled, tree }])[0]!)
    const expected = clean.map((value, i) => (pathOf(tree, Math.floor(i / 32)).includes(node) ? Number.NaN : value))
    expectSameBits(got, expected, place)
  })
})
