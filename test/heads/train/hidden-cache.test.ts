// Hidden rows on disk: what was put comes back, and nothing else ever does.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { HIDDEN_CACHE_FILE, type HiddenCacheOptions, openHiddenCache } from '../../../heads/train/hidden-cache.js'
import { packageRoot } from '../../../src/native.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'
import { TYPESCRIPT } from '../../support/program.js'
import { Random } from '../../support/random.js'

const folder = temporaryFolder()
const BYTES_PER_ROW = 6

const open = (name: string, options: Partial<HiddenCacheOptions> = {}) =>
  openHiddenCache(join(folder, name), { identity: 'a model', bytesPerRow: BYTES_PER_ROW, ...options })

const fileOf = (name: string): string => join(folder, name, HIDDEN_CACHE_FILE)

interface Text {
  readonly tokens: Int32Array
  readonly rows: Uint8Array
}

function textsOf(name: string, count = 5): Text[] {
  const random = new Random(name)
  return Array.from({ length: count }, (_, i) => {
    const tokens = Int32Array.from({ length: 1 + 3 * i }, () => random.bits() >>> 8)
    return { tokens, rows: Uint8Array.from({ length: tokens.length * BYTES_PER_ROW }, () => random.bits() & 255) }
  })
}

/** A closed cache of these texts. */
async function filled(name: string, texts: readonly Text[]): Promise<void> {
  const cache = await open(name)
  for (const { tokens, rows } of texts) await cache.put(tokens, rows)
  await cache.close()
}

/** Which of the texts a cache still has; those it has must be right. */
async function kept(
  name: string,
  texts: readonly Text[],
  options: Partial<HiddenCacheOptions> = {},
): Promise<boolean[]> {
  const cache = await open(name, options)
  const found: boolean[] = []
  for (const { tokens, rows } of texts) {
    const got = await cache.get(tokens)
    if (got) expect(Buffer.compare(got, rows)).toBe(0)
    found.push(got !== null)
  }
  await cache.close()
  return found
}

const all = (texts: readonly Text[], value: boolean): boolean[] => texts.map(() => value)

describe('what was put', () => {
  test('comes back, in the same run and in the next; anything else does not', async () => {
    const texts = textsOf('again')
    const cache = await open('again')
    for (const { tokens, rows } of texts) {
      expect(await cache.get(tokens)).toBeNull()
      await cache.put(tokens, rows)
      expect(Buffer.compare((await cache.get(tokens))!, rows)).toBe(0)
    }
    expect(cache.texts).toBe(texts.length)
    await cache.close()
    expect(statSync(fileOf('again')).size).toBe(cache.bytes)
    expect(await kept('again', texts)).toEqual(all(texts, true))
    expect(await kept('again', textsOf('other texts'))).toEqual(all(texts, false))
  })

  test('is kept once, and is added to by later runs', async () => {
    const texts = textsOf('added')
    await filled('added', texts.slice(0, 3))
    const { size } = statSync(fileOf('added'))
    await filled('added', texts.slice(0, 3))
    expect(statSync(fileOf('added')).size).toBe(size)
    await filled('added', texts.slice(3))
    expect(await kept('added', texts)).toEqual(all(texts, true))
  })

  test('may be put all at once', async () => {
    const texts = textsOf('at once', 20)
    const cache = await open('at once')
    await Promise.all(texts.map(({ tokens, rows }) => cache.put(tokens, rows)))
    await cache.close()
    expect(await kept('at once', texts)).toEqual(all(texts, true))
  })

  test.each([
    ['of another model', { identity: 'another' }],
    ['of rows of another width', { bytesPerRow: 2 * BYTES_PER_ROW }],
  ])('is not there for a run %s, and is gone after it', async (name, options) => {
    const texts = textsOf(name)
    await filled(name, texts)
    expect(await kept(name, texts, options)).toEqual(all(texts, false))
    expect(await kept(name, texts)).toEqual(all(texts, false))
  })
})

describe('a damaged file', () => {
  test('cut short anywhere keeps the texts before the cut, and takes new ones', async () => {
    const texts = textsOf('cut')
    await filled('cut', texts)
    const whole = readFileSync(fileOf('cut'))
    for (let size = whole.length - 1; size >= 0; size -= 7) {
      writeFileSync(fileOf('cut'), whole.subarray(0, size))
      const found = await kept('cut', texts)
      // Those found come first.
      expect(found).toEqual(found.toSorted((a, b) => Number(b) - Number(a)))
      expect(found.at(-1)).toBe(false)
      await filled('cut', texts)
      expect(await kept('cut', texts)).toEqual(all(texts, true))
    }
  })

  test('with any byte changed never gives rows that are wrong', async () => {
    const texts = textsOf('changed', 3)
    await filled('changed', texts)
    const whole = readFileSync(fileOf('changed'))
    // Of the first bytes the magic is another test's.
    for (let at = 32; at < whole.length; at += 5) {
      const changed = Buffer.from(whole)
      changed[at]! ^= 0x41
      writeFileSync(fileOf('changed'), changed)
      expect(await kept('changed', texts), `byte ${at}`).toContain(false)
    }
  })

  test('under a run that has it open gives nothing wrong, and is mended', async () => {
    const texts = textsOf('pulled')
    await filled('pulled', texts)
    const cache = await open('pulled')
    truncateSync(fileOf('pulled'), 100)
    expect(await cache.get(texts[4]!.tokens)).toBeNull()
    await cache.put(texts[4]!.tokens, texts[4]!.rows)
    expect(await cache.get(texts[4]!.tokens)).not.toBeNull()
    await cache.close()
  })

  test.each([
    ['text of somebody', 'notes on hidden rows'],
    ['a few bytes', 'no'],
  ])('that is %s is refused and left alone', async (name, content) => {
    mkdirSync(join(folder, name))
    writeFileSync(fileOf(name), content)
    await failure(() => open(name), 'ERR_FILE', /not a cache of hidden rows/)
    expect(readFileSync(fileOf(name), 'utf8')).toBe(content)
  })
})

describe('without room', () => {
  test('nothing more is kept, which is said once; what is there stays', async () => {
    const texts = textsOf('bounded', 8)
    const warnings: string[] = []
    const cache = await open('bounded', { maxBytes: 400, onWarning: (message) => warnings.push(message) })
    for (const { tokens, rows } of texts) await cache.put(tokens, rows)
    expect(cache.bytes).toBeLessThanOrEqual(400)
    await cache.close()
    expect(warnings).toEqual([expect.stringMatching(/may hold 400: .* computed anew in every epoch\.$/)])
    const found = await kept('bounded', texts)
    expect(found).toContain(true)
    expect(found).toContain(false)
  })

  test('on the disk, the run goes on, and the file ends with its last whole text', () => {
    const dir = join(folder, 'limited')
    const script = `
      import { openHiddenCache } from ${JSON.stringify(join(packageRoot(), 'heads', 'train', 'hidden-cache.ts'))}
      const cache = await openHiddenCache(${JSON.stringify(dir)}, {
        identity: 'a', bytesPerRow: 1000, maxBytes: 1e9, onWarning: (message) => console.log(message),
      })
      for (let i = 0; i < 8; i++) await cache.put(new Int32Array(1000).fill(i), new Uint8Array(1e6).fill(i))
      const got = await cache.get(new Int32Array(1000))
      console.log(cache.texts, cache.bytes, got.length)
      await cache.close()`
    // 3.9 MB, in the blocks of 512 bytes that sh counts.
    const limited = ['-c', 'ulimit -f 7617 && exec "$@"', 'sh', process.execPath, ...TYPESCRIPT]
    const said = execFileSync('sh', [...limited, '--input-type=module', '-e', script], { encoding: 'utf8' })
    const [warning, counts, ...rest] = said.trim().split('\n')
    expect(warning).toMatch(/cannot be written: files may not become that large here.* anew in every epoch\.$/)
    expect(counts).toBe('3 3000208 1000000')
    expect(rest).toEqual([])
    expect(statSync(join(dir, HIDDEN_CACHE_FILE)).size).toBe(3000208)
  })

  test('a folder that cannot be made is a warning, and a cache of nothing', async () => {
    writeFileSync(join(folder, 'a file'), '')
    const warnings: string[] = []
    const cache = await open(join('a file', 'below'), { onWarning: (message) => warnings.push(message) })
    const [text] = textsOf('nowhere')
    await cache.put(text!.tokens, text!.rows)
    expect(await cache.get(text!.tokens)).toBeNull()
    await cache.close()
    expect(warnings).toEqual([expect.stringMatching(/cannot be written: .* anew in every epoch\.$/)])
  })

  test.skipIf(process.getuid?.() === 0)('nor can one be used that may not be written', async () => {
    mkdirSync(join(folder, 'locked'))
    chmodSync(join(folder, 'locked'), 0o500)
    const warnings: string[] = []
    await (await open('locked', { onWarning: (message) => warnings.push(message) })).close()
    expect(warnings).toEqual([expect.stringMatching(/permission is denied/)])
  })
})
