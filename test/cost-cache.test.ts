// Step costs on disk: found again by the same model and machine, and never in anybody's way.
import { chmod, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { costFolder, costKey, readCosts, writeCosts } from '../src/cost-cache.js'
import type { StepCosts } from '../src/decode/step-costs.js'
import { temporaryFolder } from './support/folder.js'

const dir = temporaryFolder()
const COSTS: StepCosts = {
  rows: [1, 4, 16],
  ms: [1.25, 1.5, 3],
  cacheRows: 32,
  attention: { rows: [1, 16], msPerCacheRow: [0, 0.001] },
  draftMs: [0, 0.25, 0.5],
  sequenceMs: 0.125,
}
const KEY = 'a'.repeat(32)

describe('the folder', () => {
  test.each<[Record<string, string>, NodeJS.Platform, string | null]>([
    [{}, 'linux', '/home/me/.cache/gorgon'],
    [{ XDG_CACHE_HOME: '/x' }, 'linux', '/x/gorgon'],
    [{}, 'darwin', '/home/me/Library/Caches/gorgon'],
    [{ GORGON_CACHE: '/here', XDG_CACHE_HOME: '/x' }, 'linux', '/here'],
    [{ GORGON_CACHE: 'off', XDG_CACHE_HOME: '/x' }, 'linux', null],
    [{ GORGON_CACHE: '', XDG_CACHE_HOME: '' }, 'linux', '/home/me/.cache/gorgon'],
    [{ XDG_CACHE_HOME: 'relative' }, 'linux', '/home/me/.cache/gorgon'],
  ])('%j on %s', (env, platform, folder) => {
    expect(costFolder(env, platform, '/home/me')).toBe(folder)
  })

  test('none without a home', () => {
    expect(costFolder({}, 'linux', '')).toBe(null)
  })
})

describe('the key', () => {
  test('depends on every fact, and on nothing else', () => {
    const facts = { isa: 'avx2', shape: { layers: 2, angles: Float32Array.of(1, 2) } }
    expect(costKey(facts)).toBe(costKey(structuredClone(facts)))
    const others = [
      { ...facts, isa: 'amx' },
      { ...facts, shape: { ...facts.shape, layers: 3 } },
      { ...facts, shape: { ...facts.shape, angles: Float32Array.of(1, 3) } },
    ]
    expect(new Set([facts, ...others].map(costKey)).size).toBe(4)
    expect(costKey(facts)).toMatch(/^[0-9a-f]{32}$/)
  })
})

describe('a file', () => {
  test('gives back what was written, in a folder made for it', async () => {
    const folder = join(dir, 'new', 'folder')
    expect(await readCosts(folder, KEY)).toBeNull()
    await writeCosts(folder, KEY, COSTS)
    expect(await readCosts(folder, KEY)).toEqual(COSTS)
    expect(await readCosts(folder, 'b'.repeat(32))).toBeNull()
    expect(await readdir(folder)).toHaveLength(1)
  })

  test('is whole, whoever else writes it', async () => {
    const folder = join(dir, 'race')
    const writers = Array.from({ length: 30 }, (_, i) => writeCosts(folder, KEY, { ...COSTS, sequenceMs: i / 64 }))
    const readers = Array.from({ length: 30 }, () => readCosts(folder, KEY))
    await Promise.all(writers)
    for (const read of await Promise.all(readers)) if (read) expect(read.rows).toEqual(COSTS.rows)
    expect(await readCosts(folder, KEY)).toMatchObject({ rows: COSTS.rows })
    expect(await readdir(folder)).toHaveLength(1)
  })

  const file = { version: 1, key: KEY, costs: COSTS }
  test.each<[string, string]>([
    ['empty', ''],
    ['no JSON', '{"version":1,'],
    ['an array', '[]'],
    ['of another version', JSON.stringify({ ...file, version: 2 })],
    ['of another key', JSON.stringify({ ...file, key: 'b' })],
    ['without costs', JSON.stringify({ ...file, costs: null })],
    ['with rows out of order', JSON.stringify({ ...file, costs: { ...COSTS, rows: [1, 16, 4] } })],
    ['not from one row on', JSON.stringify({ ...file, costs: { ...COSTS, rows: [2, 4, 16] } })],
    ['with too few times', JSON.stringify({ ...file, costs: { ...COSTS, ms: [1] } })],
    ['with a time that is none', JSON.stringify({ ...file, costs: { ...COSTS, ms: [1, null, 2] } })],
    ['with a negative time', JSON.stringify({ ...file, costs: { ...COSTS, ms: [-1, 1, 2] } })],
    ['with free steps', JSON.stringify({ ...file, costs: { ...COSTS, ms: [0, 1, 2] } })],
    ['nested without end', '['.repeat(40_000)],
    ['huge', `${JSON.stringify(file)}${' '.repeat(100_000)}`],
  ])('that is %s is as if it were not there', async (name, text) => {
    const folder = join(dir, name)
    await mkdir(folder)
    await writeFile(join(folder, `step-costs-${KEY}.json`), text)
    expect(await readCosts(folder, KEY)).toBeNull()
    await writeCosts(folder, KEY, COSTS)
    expect(await readCosts(folder, KEY)).toEqual(COSTS)
  })

  test('that cannot be written or read is no error', async () => {
    const blocked = join(dir, 'blocked')
    await writeFile(blocked, 'a file where a folder belongs')
    await writeCosts(blocked, KEY, COSTS)
    expect(await readCosts(blocked, KEY)).toBeNull()
    expect(await readFile(blocked, 'utf8')).toBe('a file where a folder belongs')

    const sealed = join(dir, 'sealed')
    await mkdir(sealed)
    await chmod(sealed, 0o500)
    await writeCosts(sealed, KEY, COSTS)
    await chmod(sealed, 0o700)

    const odd = join(dir, 'odd')
    await mkdir(join(odd, `step-costs-${KEY}.json`), { recursive: true })
    expect(await readCosts(odd, KEY)).toBeNull()
    await writeCosts(odd, KEY, COSTS)
    expect(await readdir(odd)).toHaveLength(1)

    const loop = join(dir, 'loop')
    await mkdir(loop)
    await symlink(join(loop, `step-costs-${KEY}.json`), join(loop, `step-costs-${KEY}.json`))
    expect(await readCosts(loop, KEY)).toBeNull()
  })
})
