// Conversions as a whole: drafts stay the same, values keep to their dtype, memory stays small, and what was there survives a failure.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { convertHeads } from '../../../heads/convert/convert.js'
import { native, packageRoot } from '../../../src/native.js'
import { readHeads } from '../../../src/weights/load.js'
import { openSafetensors, PIECE_BYTES, readTensorBytes, writeSafetensors } from '../../../src/weights/safetensors.js'
import { failure } from '../../support/errors.js'
import { readySession } from '../../support/native-calls.js'
import { openModel } from '../../support/native-session.js'
import { isSanitized, TYPESCRIPT } from '../../support/program.js'
import { fromBf16, fromF16, toBf16, toF16, writeTinyModel } from '../../support/tiny-model.js'
import { contentOf, conversions, fileOf } from './conversions.js'

const of = conversions()

test('drafts are the same before and after', async () => {
  const prompt = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 128)
  const draftsOf = async (heads: string) => {
    const handle = await openModel(of.model, { heads, threads: 1 })
    try {
      const { session, drafts } = await readySession(handle, {
        tokens: Int32Array.from(prompt),
        medusaHeads: 3,
        topK: 8,
      })
      await native().close(session)
      return { root: drafts.root, tokens: [...drafts.tokens] }
    } finally {
      await native().close(handle)
    }
  }
  for (const [from, targets] of [
    ['A', ['A', 'E']],
    ['B', ['A', 'B', 'E']],
    ['E', ['A', 'E']],
  ] as const) {
    const source = await of.tinyHeads(from)
    const expected = await draftsOf(source)
    expect(new Set(expected.tokens).size).toBeGreaterThan(3)
    for (const to of targets) {
      expect(await draftsOf(await of.converted(source, to, { model: of.model })), `${from} to ${to}`).toEqual(expected)
    }
  }
})

describe('another dtype', () => {
  const numbers = [0, -0, 1, -1.5, 1 / 3, 6e-8, 65504, -65504, 1e-3, 12345.678]
  async function single(values: readonly number[]): Promise<string> {
    const dir = of.next()
    mkdirSync(dir)
    const data = new Uint8Array(Float32Array.from(values).buffer)
    await writeSafetensors(join(dir, 'h.safetensors'), {
      '0.0.weight': { dtype: 'F32', shape: [values.length, 1], data },
    })
    return join(dir, 'h.safetensors')
  }
  const halvesOf = async (dir: string) => {
    const path = fileOf(dir)
    const bytes = await readTensorBytes(path, (await openSafetensors(path)).tensors.get('0.0.weight')!)
    return [...new Uint16Array(bytes.buffer)]
  }

  test('is the nearest value, and wider ones are exact', async () => {
    const source = await single(numbers)
    const bf16 = await of.converted(source, 'A', { dtype: 'bf16' })
    expect(await halvesOf(bf16)).toEqual(numbers.map((value) => toBf16(Math.fround(value))))
    const f16 = await of.converted(source, 'A', { dtype: 'f16' })
    expect(await halvesOf(f16)).toEqual(numbers.map((value) => toF16(Math.fround(value))))
    for (const [dir, value] of [
      [bf16, fromBf16],
      [f16, fromF16],
    ] as const) {
      const path = fileOf(await of.converted(dir, 'A', { dtype: 'f32' }))
      const bytes = await readTensorBytes(path, (await openSafetensors(path)).tensors.get('0.0.weight')!)
      expect([...new Float32Array(bytes.buffer)]).toEqual((await halvesOf(dir)).map(value))
    }
  })

  test('that cannot hold a value is refused', async () => {
    const large = await single([1, 65520])
    await failure(
      () => of.converted(large, 'A', { dtype: 'f16' }),
      'ERR_TENSOR',
      /holds 65520, which is too large for f16/,
    )
    expect(await halvesOf(await of.converted(large, 'A', { dtype: 'bf16' }))).toEqual([1, 65520].map(toBf16))
    const larger = await single([-3.4e38])
    await failure(() => of.converted(larger, 'A', { dtype: 'bf16' }), 'ERR_TENSOR', /too large for bf16/)
    const infinite = await single([Number.POSITIVE_INFINITY])
    expect(await halvesOf(await of.converted(infinite, 'A', { dtype: 'f16' }))).toEqual([0x7c00])
  })

  test('leaves a token map alone', async () => {
    const source = await of.tinyHeads('A', { rows: 3, tokenMap: [5, 0, 127] })
    const out = await of.converted(source, 'A', { dtype: 'f32' })
    expect(await readHeads(out, of.base)).toMatchObject({ dtype: 'f32', tokenMap: Int32Array.of(5, 0, 127) })
  })
})

describe('where it is written', () => {
  test('a new folder, with what was measured of the heads beside them', async () => {
    const demo = join(packageRoot(), 'heads', 'demo')
    const out = join(of.next(), 'inner')
    await convertHeads({ source: demo, to: 'B', out })
    expect(readdirSync(out).sort()).toEqual(['accuracy.json', 'config.json', 'medusa_lm_head.safetensors'])
    const read = (dir: string) => JSON.parse(readFileSync(join(dir, 'accuracy.json'), 'utf8')) as unknown
    expect(read(out)).toEqual(read(demo))
    const source = await of.tinyHeads('B')
    writeFileSync(join(source, 'accuracy.json'), '{"rank_accuracy": [[2]]}')
    const plain = of.next()
    const { warnings } = await convertHeads({ source, to: 'B', out: plain })
    expect(warnings).toEqual([expect.stringMatching(/rank_accuracy.*It is left out/)])
    expect(readdirSync(plain).sort()).toEqual(['config.json', 'medusa_lm_head.safetensors'])
  })

  test('nothing that is there is replaced unasked, and nothing but heads when asked', async () => {
    const source = await of.tinyHeads('A')
    const out = await of.converted(source, 'A')
    writeFileSync(join(out, 'notes.txt'), 'mine')
    const before = readFileSync(fileOf(out))
    await failure(
      () => convertHeads({ source, to: 'E', out }),
      'ERR_FILE',
      /medusa_lm_head\.safetensors, config\.json already/,
    )
    expect(readFileSync(fileOf(out)).equals(before)).toBe(true)
    await convertHeads({ source, to: 'E', out, force: true })
    expect(readdirSync(out).sort()).toEqual(['config.json', 'model.safetensors', 'notes.txt'])
    expect(await of.rolesOf(out)).toEqual(await of.rolesOf(source))

    const own = await writeTinyModel(of.next())
    await failure(
      () => convertHeads({ source, to: 'A', out: own.dir, force: true }),
      'ERR_FILE',
      /is not of Medusa heads/,
    )
    await failure(() => convertHeads({ source, to: 'A', out: fileOf(out) }), 'ERR_FILE', /is a file/)
    const blocked = { source, to: 'A', out: join(fileOf(out), 'inner') } as const
    await failure(() => convertHeads(blocked), 'ERR_WRITE', /a part of its path is a file/)
  })

  test('in place of the source itself', async () => {
    const source = await of.tinyHeads('A')
    const copy = await of.converted(source, 'A')
    await convertHeads({ source: copy, to: 'A', out: copy, force: true })
    expect(await contentOf(copy)).toEqual(await contentOf(source))
    await convertHeads({ source: copy, to: 'E', out: copy, force: true })
    expect(await of.rolesOf(copy)).toEqual(await of.rolesOf(source))
  })

  test('nothing is left of what was cancelled or failed', async () => {
    const source = await of.tinyHeads('A')
    const abort = new AbortController()
    const out = of.next()
    const cancelled = convertHeads({
      source,
      to: 'E',
      out,
      signal: abort.signal,
      onProgress: () => abort.abort(),
    })
    await expect(cancelled).rejects.toMatchObject({ name: 'AbortError' })
    expect(existsSync(out)).toBe(false)
    const wide = await of.tinyHeads('A', { dtype: 'f32', config: {} })
    const path = fileOf(wide)
    truncateSync(path, readFileSync(path).length - 4)
    await failure(() => convertHeads({ source: wide, to: 'E', out }), 'ERR_SAFETENSORS')
    expect(existsSync(out)).toBe(false)
  })

  test('a disk that is full leaves what was there', async () => {
    const source = await of.tinyHeads('A', { rows: 4096 })
    const out = await of.converted(source, 'A')
    const before = readFileSync(fileOf(out))
    const script = `
      import { convertHeads } from ${JSON.stringify(join(packageRoot(), 'heads', 'convert', 'convert.ts'))}
      const options = ${JSON.stringify({ source, to: 'A', out, force: true, dtype: 'f32' })}
      await convertHeads(options).catch((error) => process.stdout.write(error.code + ' ' + error.message))`
    const limited = ['-c', 'ulimit -f 2048 && exec "$@"', 'sh', process.execPath, ...TYPESCRIPT]
    const said = execFileSync('sh', [...limited, '--input-type=module', '-e', script], { encoding: 'utf8' })
    expect(said).toMatch(/^ERR_WRITE .*files may not become that large here/)
    expect(readFileSync(fileOf(out)).equals(before)).toBe(true)
    expect(readdirSync(out).sort()).toEqual(['config.json', 'medusa_lm_head.safetensors'])
  })

  test('progress goes to its end, comparisons included', async () => {
    const a = await of.converted(await of.tinyHeads('B'), 'A', { model: of.model })
    const told: { done: number; total: number }[] = []
    const onProgress = (progress: { done: number; total: number }) => told.push(progress)
    const report = await convertHeads({ source: a, to: 'B', out: of.next(), model: of.model, onProgress })
    expect(told.at(-1)).toEqual({ done: told[0]!.total, total: told[0]!.total })
    expect(told[0]!.total).toBe(report.bytes + 3 * 128 * 64 * 2)
    expect(told.every(({ done }, i) => i === 0 || done > told[i - 1]!.done)).toBe(true)
  })

  test('an option that is not known', async () => {
    await failure(() => convertHeads({ source: 'x', to: 'D' as 'A', out: 'y' }), 'ERR_OPTION', /to is "D": use one of/)
  })
})

test.skipIf(isSanitized)('heads larger than what may be held pass through', async () => {
  const dir = of.next()
  mkdirSync(dir)
  // Holes, which are zeros: 8 heads of 64 MiB.
  const hidden = 1024
  const shape = [(64 * 1024 * 1024) / 2 / hidden, hidden]
  const header: Record<string, unknown> = {}
  for (let head = 0; head < 8; head++) {
    const offsets = [head, head + 1].map((n) => n * 64 * 1024 * 1024)
    header[`${head}.0.weight`] = { dtype: 'BF16', shape, data_offsets: offsets }
  }
  const json = Buffer.from(JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const path = join(dir, 'large.safetensors')
  writeFileSync(path, Buffer.concat([prefix, json]))
  truncateSync(path, 8 + json.length + 8 * 64 * 1024 * 1024)
  let most = 0
  const held = () => process.memoryUsage().arrayBuffers
  const before = held()
  const onProgress = () => {
    most = Math.max(most, held() - before)
  }
  const { bytes } = await convertHeads({ source: path, to: 'E', out: of.next(), onProgress })
  expect(bytes).toBe(512 * 1024 * 1024)
  // Buffers of finished tensors may wait for the collector.
  expect(most).toBeLessThan(16 * PIECE_BYTES)
})
