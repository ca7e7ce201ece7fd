// Calibration as a whole, on the demo model: the same each time, kept by the engine, and refused where there is nothing to measure.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type Calibration, calibrateHeads } from '../../../heads/calibrate/calibrate.js'
import { filesOf, writeCalibration } from '../../../heads/calibrate/files.js'
import type { CalibrateOptionsInput, CalibrationProgress } from '../../../heads/calibrate/options.js'
import { HeadsAccuracy } from '../../../heads/format/accuracy.js'
import { buildTree } from '../../../src/decode/tree.js'
import { Engine } from '../../../src/engine.js'
import { packageRoot, parseLoadOptions } from '../../../src/index.js'
import { loadParts } from '../../../src/load-engine.js'
import { native } from '../../../src/native.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { writeTinyHeads, writeTinyModel } from '../../support/tiny-model.js'

const dir = temporaryFolder()
const OPTIONS: CalibrateOptionsInput = {
  model: 'demo',
  threads: 1,
  data: join(packageRoot(), 'src', 'decode'),
  prompts: 16,
  promptTokens: 64,
  tokens: 48,
  nodes: 16,
}
const DEMO_HEADS = join(packageRoot(), 'heads', 'demo')

let calibration: Calibration
const progress: CalibrationProgress[] = []

beforeAll(async () => {
  calibration = await calibrateHeads({ ...OPTIONS, onProgress: (one) => progress.push(one) })
})

describe('calibrateHeads', () => {
  test('grows a tree, nested by size, of the size asked for', () => {
    const { tree, accuracy, sizes } = calibration
    expect(tree.nodes).toBe(16)
    expect(buildTree(tree.paths).nodeCount).toBe(16)
    expect(accuracy.paths!.slice(0, 15).map(({ ranks }) => ranks)).toEqual(tree.paths)
    expect(HeadsAccuracy.safeParse(accuracy).success).toBe(true)
    const rates = sizes.map(({ tokensPerStep }) => tokensPerStep)
    expect(rates).toEqual(rates.toSorted((a, b) => a - b))
    expect(rates.at(-1)).toBeGreaterThan(2)
  })

  test('checks what it promises on texts of each temperature that it was not grown from', () => {
    const { checks, conditions } = calibration
    expect(conditions).toMatchObject({ texts: 12, heldOut: 4, temperatures: [0, 0.7] })
    expect(conditions.positions).toBeGreaterThan(12 * 24)
    expect(checks.map(({ temperature }) => temperature)).toEqual([0, 0.7])
    for (const { predicted, measured, measuredSpeedup } of checks) {
      expect(predicted.tokensPerStep).toBeGreaterThan(1.5)
      expect(measured!.tokensPerStep).toBeGreaterThan(1)
      expect(measuredSpeedup).toBeGreaterThan(0)
    }
  })

  test('goes through its phases in order, each to its end', () => {
    const phases = [...new Set(progress.map(({ phase }) => phase))]
    expect(phases).toEqual(['load', 'read', 'trace', 'grow', 'check'])
    for (const phase of ['read', 'grow', 'check']) {
      const { done, total } = progress.findLast((one) => one.phase === phase)!
      expect(done, phase).toBe(total)
    }
  })

  test('finds the same with the same options, whatever is done at once', async () => {
    const { threads: _, ...options } = OPTIONS
    const again = await calibrateHeads({ ...options, threads: 2, batch: 3 })
    expect(again.accuracy).toEqual(calibration.accuracy)
    expect(again.tree).toEqual(calibration.tree)
    expect(filesOf(again)['accuracy.json']).toBe(filesOf(calibration)['accuracy.json'])
  })

  test('leaves out what cannot be told of a single text', async () => {
    const file = join(dir, 'one.jsonl')
    writeFileSync(file, `${JSON.stringify({ text: 'export function add(left: number, right: number): number {' })}\n`)
    const { checks, conditions } = await calibrateHeads({ ...OPTIONS, data: file, temperatures: [0] })
    expect(conditions).toMatchObject({ texts: 1, heldOut: 0 })
    expect(checks).toMatchObject([{ temperature: 0, measured: null, measuredSpeedup: null }])
    expect(checks[0]!.predicted.standardError).toBeNull()
  })

  test.each([
    ['more tokens than the context holds', { tokens: 20_000 }, 'ERR_CONTEXT_OVERFLOW' as const, /20000.*16384/],
    ['no temperatures', { temperatures: [] }, 'ERR_OPTION' as const, /temperatures/],
    ['a temperature below zero', { temperatures: [0, -1] }, 'ERR_OPTION' as const, /temperatures\[1\]/],
    ['a tree of one node', { nodes: 1 }, 'ERR_OPTION' as const, /nodes is 1/],
    ['data that are not there', { data: '/nowhere/at/all' }, 'ERR_FILE' as const, /nowhere/],
  ])('refuses %s', async (_, options, code, message) => {
    await failure(() => calibrateHeads({ ...OPTIONS, ...options }), code, message)
  })

  test('refuses a model without heads', async () => {
    const { dir: model } = await writeTinyModel(join(dir, 'headless'))
    await failure(() => calibrateHeads({ ...OPTIONS, model }), 'ERR_OPTION', /no Medusa heads/)
  })

  test('stops when told to', async () => {
    for (const phase of ['trace', 'check'] as const) {
      const controller = new AbortController()
      const onProgress = (one: CalibrationProgress) => {
        if (one.phase === phase) controller.abort(new Error(`enough of ${phase}`))
      }
      await expect(calibrateHeads({ ...OPTIONS, signal: controller.signal, onProgress })).rejects.toThrow(
        `enough of ${phase}`,
      )
    }
  })

  test('says so where no draft is ever right', async () => {
    const model = await writeTinyModel(join(dir, 'tiny'), { vocab: 4096, eos: null })
    const { dir: heads } = await writeTinyHeads(join(dir, 'tiny-heads'), model, { scale: 0 })
    const ids = join(dir, 'ids.json')
    writeFileSync(ids, JSON.stringify(Array.from({ length: 8 }, (_, i) => Array.from({ length: 8 }, (_, j) => i + j))))
    const options = { ...OPTIONS, model: model.dir, heads, data: ids, promptTokens: 4, tokens: 4 }
    const outcome = await calibrateHeads({ ...options, temperatures: [100] }).catch((error: unknown) => error)
    // Random heads of a model that draws from 4096 tokens alike.
    expect(outcome).toMatchObject({ code: 'ERR_DATA', message: expect.stringMatching(/none of the drafts/) })
  })
})

describe('writeCalibration', () => {
  test('writes what the engine then takes its trees from', async () => {
    const heads = join(dir, 'heads')
    await cp(DEMO_HEADS, heads, { recursive: true })
    const written = await writeCalibration(heads, calibration)
    expect(written).toEqual([
      { file: join(heads, 'accuracy.json'), replaced: true },
      { file: join(heads, 'tree.json'), replaced: false },
      { file: join(heads, 'tree.svg'), replaced: false },
    ])
    expect(readdirSync(heads).sort()).toEqual([...readdirSync(DEMO_HEADS), 'tree.json', 'tree.svg'].sort())
    const parts = await loadParts(parseLoadOptions({ model: 'demo', heads, threads: 1 }), native())
    await using engine = new Engine(parts)
    expect(parts.measured.grown!.map(({ ranks }) => ranks)).toEqual(
      calibration.accuracy.paths!.map(({ ranks }) => ranks),
    )
    expect(engine.info.warnings.filter((warning) => warning.includes('accuracy'))).toEqual([])
    const { speculation } = await engine.generate('export function', {
      maxTokens: 24,
      speculation: { mode: 'medusa', tree: { paths: calibration.tree.paths } },
    })
    expect(speculation.nodes).toBe(16)
    expect((await writeCalibration(heads, calibration)).every(({ replaced }) => replaced)).toBe(true)
  })

  test('makes the folder, and says which file cannot be written', async () => {
    const folder = join(dir, 'new', 'deep')
    await writeCalibration(folder, calibration)
    expect(JSON.parse(readFileSync(join(folder, 'tree.json'), 'utf8'))).toMatchObject({
      nodes: 16,
      paths: calibration.tree.paths,
      conditions: { texts: 12 },
    })
    await failure(() => writeCalibration(join(folder, 'tree.json'), calibration), 'ERR_WRITE', /tree\.json/)
  })

  test('rounds numbers, keeps whole ones, and has a line for each path', () => {
    const { 'accuracy.json': text } = filesOf(calibration)
    expect(JSON.parse(text!).counts).toEqual(calibration.accuracy.counts)
    expect(text).not.toMatch(/\d\.\d{7}/)
    expect(text!.match(/^ {4}\{"ranks":\[[\d,]+\],"share":[\d.]+\},?$/gm)).toHaveLength(
      calibration.accuracy.paths!.length,
    )
  })

  test('draws the tree: a disc for each node, a line to each but the root', () => {
    const { 'tree.svg': svg } = filesOf(calibration)
    expect(svg!.match(/<circle /g)).toHaveLength(16)
    expect(svg!.match(/<line /g)).toHaveLength(15)
    expect(svg).toContain('A tree of 16 nodes')
    for (const head of [1, 2, 3]) expect(svg).toContain(`>head ${head}<`)
    expect(filesOf(calibration)['tree.svg']).toBe(svg)
  })
})
