// rope_append: queries as attention takes them, keys and values behind the committed rows of every session's cache.
import { describe, expect, it } from 'vitest'
import { type Dtype, round } from '../oracle/dtype.js'
import { type ElementOf, kBytes, kElement, readRow, vBytes, vElement, writeRow } from '../oracle/kv.js'
import { rmsNorm } from '../oracle/rms-norm.js'
import { rope } from '../oracle/rope.js'
import { isRounded, randomTree, type TreeShape, treeShape } from '../support/attention.js'
import { EPSILON, expectClose, expectSame, expectSameBits, rounding } from '../support/compare.js'
import { type AppendItemArgs, isas, ops, roundUp, strided } from '../support/ops.js'
import { Random } from '../support/random.js'

const DTYPES: Dtype[] = ['f32', 'f16', 'bf16']
const EPS = 1e-6
const TABLE_ROWS = 400

interface AppendCase {
  dtype: Dtype
  queryHeads: number
  kvHeads: number
  headDim: number
  normed: boolean
  sessions: readonly { readonly rows: number; readonly nodes: number }[]
}

interface Session {
  readonly rows: number
  readonly tree: TreeShape
  readonly position: number
  readonly capacity: number
  /** [Hkv][rows][D] that are committed. */
  readonly k: Float32Array[][]
  readonly v: Float32Array[][]
}

interface Inputs {
  sessions: Session[]
  tokens: number
  /** f32 [T, (Hq + 2 Hkv) D]. */
  qkv: Float32Array
  qNorm: Float32Array | null
  kNorm: Float32Array | null
  cos: Float32Array
  sin: Float32Array
}

interface Result {
  /** [T, Hq, D]. */
  q: Float32Array
  items: AppendItemArgs[]
}

const nameOf = (c: AppendCase): string =>
  `${c.dtype} Hq=${c.queryHeads} Hkv=${c.kvHeads} D=${c.headDim}${c.normed ? ' normed' : ''} sessions=${c.sessions.map(({ rows, nodes }) => `${rows}+${nodes}`).join()}`

const widthOf = ({ queryHeads, kvHeads, headDim }: AppendCase): number => (queryHeads + 2 * kvHeads) * headDim

function inputsOf(c: AppendCase, random: Random): Inputs {
  const committed = (rows: number) =>
    Array.from({ length: c.kvHeads }, () =>
      Array.from({ length: rows }, () => random.normals(c.headDim).map((value) => round(c.dtype, value))),
    )
  const sessions = c.sessions.map(({ rows, nodes }) => ({
    rows,
    tree: nodes === 1 ? treeShape([-1]) : randomTree(random, nodes, 5),
    position: rows + random.integer(0, 100),
    capacity: roundUp(rows + nodes, 32) + 32,
    k: committed(rows),
    v: committed(rows),
  }))
  const tokens = c.sessions.reduce((sum, { nodes }) => sum + nodes, 0)
  const angles = Array.from({ length: (TABLE_ROWS * c.headDim) / 2 }, () => random.uniform(-4, 4))
  return {
    sessions,
    tokens,
    qkv: random.normals(tokens * widthOf(c)),
    qNorm: c.normed ? random.normals(c.headDim) : null,
    kNorm: c.normed ? random.normals(c.headDim) : null,
    cos: Float32Array.from(angles, Math.cos),
    sin: Float32Array.from(angles, Math.sin),
  }
}

function run(isa: string, threads: number, c: AppendCase, inputs: Inputs): Result {
  const { dtype, queryHeads, kvHeads, headDim } = c
  const items = inputs.sessions.map(({ rows, tree, position, capacity, k, v }): AppendItemArgs => {
    const [kSize, vSize] = [kBytes(dtype, headDim, capacity), vBytes(dtype, headDim, capacity)]
    const cacheK = new Uint8Array(kvHeads * kSize)
    const cacheV = new Uint8Array(kvHeads * vSize)
    for (let head = 0; head < kvHeads; head++) {
      for (let row = 0; row < rows; row++) {
        writeRow(dtype, cacheK.subarray(head * kSize, (head + 1) * kSize), kElement, headDim, row, k[head]![row]!)
        writeRow(dtype, cacheV.subarray(head * vSize, (head + 1) * vSize), vElement, headDim, row, v[head]![row]!)
      }
    }
    const positions = new Int32Array(kvHeads * capacity).fill(-5)
    const { depths, paths, pathStride } = tree
    return { nodes: depths.length, rows, position, depths, paths, pathStride, capacity, cacheK, cacheV, positions }
  })
  const width = widthOf(c)
  const qkvStride = width + 3
  const q = new Float32Array(inputs.tokens * queryHeads * roundUp(headDim, 32))
  const { qNorm, kNorm, cos, sin } = inputs
  const qkv = strided(inputs.qkv, inputs.tokens, width, qkvStride)
  const shape = { dtype, queryHeads, kvHeads, headDim, qkvStride, eps: EPS, tableRows: TABLE_ROWS }
  ops.ropeAppend(isa, threads, { ...shape, qkv, items, qNorm, kNorm, cos, sin, q })
  const padded = roundUp(headDim, 32)
  const heads = Array.from({ length: inputs.tokens * queryHeads }, (_, i) => {
    expect(q.subarray(i * padded + headDim, (i + 1) * padded).every((value) => value === 0)).toBe(true)
    return Array.from(q.subarray(i * padded, i * padded + headDim))
  })
  return { q: Float32Array.from(heads.flat()), items }
}

/** [H, D] of one token, normalised and turned to its position; and how far f32 may be off. */
function turned(c: AppendCase, x: Float32Array, norm: Float32Array | null, inputs: Inputs, position: number) {
  const half = c.headDim / 2
  const heads = x.length / c.headDim
  const normed = norm ? rmsNorm(x, norm, EPS) : Array.from(x)
  const at = (table: Float32Array) => table.subarray(position * half, (position + 1) * half)
  const values = rope(normed, at(inputs.cos), at(inputs.sin), { tokens: 1, heads, headDim: c.headDim })
  const errors = values.map((_, i) => {
    const pair = i - (i % c.headDim) + (i % half)
    return 8 * EPSILON.f32 * Math.hypot(normed[pair]!, normed[pair + half]!)
  })
  return { values, errors }
}

function check(c: AppendCase): void {
  const { dtype, queryHeads, kvHeads, headDim } = c
  const random = new Random(`rope_append ${nameOf(c)}`)
  const inputs = inputsOf(c, random)
  const qWidth = queryHeads * headDim
  const kvWidth = kvHeads * headDim
  const queryDtype = isRounded(dtype) ? dtype : 'f32'
  for (const isa of isas) {
    for (const threads of [1, 3]) {
      const what = `${isa} with ${threads} threads`
      const got = run(isa, threads, c, inputs)
      let token = 0
      inputs.sessions.forEach((session, i) => {
        const { cacheK, cacheV, positions, capacity } = got.items[i]!
        const rowsOf = (bytes: Uint8Array, element: ElementOf, size: number, head: number, row: number) =>
          readRow(dtype, bytes.subarray(head * size, (head + 1) * size), element, headDim, row)
        const [kSize, vSize] = [kBytes(dtype, headDim, capacity), vBytes(dtype, headDim, capacity)]
        for (let head = 0; head < kvHeads; head++) {
          for (let row = 0; row < session.rows; row++) {
            const place = { random, axes: { d: headDim }, what: `${what}, committed row ${row}` }
            expectSame(rowsOf(cacheK, kElement, kSize, head, row), Array.from(session.k[head]![row]!), place)
            expectSame(rowsOf(cacheV, vElement, vSize, head, row), Array.from(session.v[head]![row]!), place)
          }
        }
        session.tree.depths.forEach((depth, node) => {
          const position = session.position + depth
          const row = inputs.qkv.subarray(token * widthOf(c), (token + 1) * widthOf(c))
          const where = `${what}, session ${i}, node ${node}`
          const q = turned(c, row.subarray(0, qWidth), inputs.qNorm, inputs, position)
          expectClose(
            got.q.subarray(token * qWidth, (token + 1) * qWidth),
            q.values,
            (at) => q.errors[at]! + rounding(queryDtype, q.values[at]!),
            { random, axes: { head: queryHeads, d: headDim }, what: `q of ${where}` },
          )
          const k = turned(c, row.subarray(qWidth, qWidth + kvWidth), inputs.kNorm, inputs, position)
          const v = row.subarray(qWidth + kvWidth)
          for (let head = 0; head < kvHeads; head++) {
            const from = head * headDim
            const axes = { d: headDim }
            expectClose(
              rowsOf(cacheK, kElement, kSize, head, session.rows + node),
              k.values.slice(from, from + headDim),
              (at) => k.errors[from + at]! + rounding(dtype, k.values[from + at]!),
              { random, axes, what: `k of ${where}, head ${head}` },
            )
            expectSame(
              rowsOf(cacheV, vElement, vSize, head, session.rows + node),
              Array.from(v.subarray(from, from + headDim), (value) => round(dtype, value)),
              { random, axes, what: `v of ${where}, head ${head}` },
            )
            expect(positions![head * capacity + session.rows + node], where).toBe(position)
          }
          token++
        })
        const untouched = Array.from(positions!).filter((_, at) => {
          const row = at % capacity
          return row < session.rows || row >= session.rows + session.tree.depths.length
        })
        expect(new Set(untouched), what).toEqual(new Set([-5]))
      })
    }
  }
}

describe('rope_append', () => {
  for (const dtype of DTYPES) {
    for (const normed of [false, true]) {
      const title = `${dtype}${normed ? ', heads normalised' : ''}`
      it(`${title}: every head width, every grouping`, () => {
        const sessions = [{ rows: 5, nodes: 3 }]
        for (const headDim of [2, 8, 16, 40, 64, 80, 96, 128, 256]) {
          check({ dtype, queryHeads: 3, kvHeads: 1, headDim, normed, sessions })
        }
        for (const [queryHeads, kvHeads] of [
          [1, 1],
          [4, 4],
          [8, 2],
        ] as const) {
          check({ dtype, queryHeads, kvHeads, headDim: 16, normed, sessions })
        }
      })
    }

    it(`${dtype}: rows behind any number of others, of one session or several`, () => {
      for (const rows of [0, 1, 7, 8, 31, 32, 33, 63, 64, 65]) {
        check({ dtype, queryHeads: 2, kvHeads: 2, headDim: 16, normed: false, sessions: [{ rows, nodes: 9 }] })
      }
      const sessions = [
        { rows: 40, nodes: 1 },
        { rows: 0, nodes: 64 },
        { rows: 130, nodes: 17 },
      ]
      check({ dtype, queryHeads: 4, kvHeads: 2, headDim: 24, normed: true, sessions })
    })
  }

  it('a session has the bits it has alone', () => {
    const shape = { dtype: 'bf16', queryHeads: 4, kvHeads: 2, headDim: 16, normed: true } as const
    const c: AppendCase = {
      ...shape,
      sessions: [
        { rows: 12, nodes: 5 },
        { rows: 3, nodes: 20 },
      ],
    }
    const random = new Random(`rope_append alone ${nameOf(c)}`)
    const inputs = inputsOf(c, random)
    for (const isa of isas) {
      const together = run(isa, 2, c, inputs)
      const second = {
        ...inputs,
        sessions: inputs.sessions.slice(1),
        tokens: 20,
        qkv: inputs.qkv.slice(5 * widthOf(c)),
      }
      const alone = run(isa, 1, { ...c, sessions: c.sessions.slice(1) }, second)
      const place = { random, axes: { t: 20, h: 4, d: 16 }, what: isa }
      expectSameBits(alone.q, together.q.slice(5 * 64), place)
      expect(Buffer.compare(alone.items[0]!.cacheK, together.items[1]!.cacheK), isa).toBe(0)
      expect(Buffer.compare(alone.items[0]!.cacheV, together.items[1]!.cacheV), isa).toBe(0)
    }
  })
})
