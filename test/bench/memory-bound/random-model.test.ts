// A model written in one stream: read back, loaded and run.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { randomModelBytes, writeRandomModel } from '../../../bench/memory-bound/random-model.js'
import { openModel } from '../../../bench/step/open-model.js'
import { type ModelShape, productsOf } from '../../../bench/support/shapes.js'
import { randomTokens } from '../../../src/bench/prompts.js'
import { parseTree } from '../../../src/decode/index.js'
import { native } from '../../../src/native.js'
import { readHeads, readModelFolder } from '../../../src/weights/load.js'
import { openSafetensors } from '../../../src/weights/safetensors.js'
import { temporaryFolder } from '../../support/folder.js'
import { forwardLogits, openModel as openHandle } from '../../support/native-session.js'

const root = temporaryFolder()
const SHAPE: ModelShape = {
  hidden: 64,
  ffn: 96,
  layers: 3,
  queryHeads: 4,
  kvHeads: 2,
  headDim: 16,
  vocab: 200,
  tied: false,
}

describe('a random model', () => {
  it('is a folder like any other, with heads that fit', async () => {
    const reports: number[] = []
    const written = await writeRandomModel(join(root, 'a'), SHAPE, {
      medusaHeads: 3,
      onProgress: (done, total) => reports.push(done / total),
    })
    const folder = await readModelFolder(written.model)
    expect(folder.config.shape).toMatchObject({
      layers: 3,
      hidden: 64,
      ffn: 96,
      vocab: 200,
      queryHeads: 4,
      kvHeads: 2,
      headDim: 16,
    })
    expect(folder.dtype).toBe('bf16')
    expect(await readHeads(written.heads!, folder)).toMatchObject({ medusaHeads: 3, blocks: 1 })
    expect(written.bytes).toBe(randomModelBytes(SHAPE, 3))
    const files = [join(written.model, 'model.safetensors'), join(written.heads!, 'medusa_lm_head.safetensors')]
    let bytes = 0
    for (const file of files) {
      for (const { begin, end } of (await openSafetensors(file)).tensors.values()) bytes += end - begin
    }
    expect(bytes).toBe(written.bytes)
    expect(reports.at(-1)).toBe(1)
    expect(reports).toEqual(reports.toSorted((a, b) => a - b))
  })

  it('has the same bytes for the same seed and others for another, and no heads when there are to be none', async () => {
    const bytesOf = async (name: string, seed: number): Promise<Buffer> => {
      const written = await writeRandomModel(join(root, name), SHAPE, { medusaHeads: 0, seed })
      expect(written.heads).toBeNull()
      return readFile(join(written.model, 'model.safetensors'))
    }
    const first = await bytesOf('b', 7)
    expect((await bytesOf('c', 7)).equals(first)).toBe(true)
    expect((await bytesOf('d', 8)).equals(first)).toBe(false)
  })

  it('keeps activations finite and logits of ordinary size through many layers', async () => {
    const { model } = await writeRandomModel(join(root, 'deep'), { ...SHAPE, layers: 24 }, { medusaHeads: 0 })
    const handle = await openHandle(model)
    try {
      const logits = forwardLogits(handle, [...randomTokens(20, SHAPE.vocab)])
      const deviation = Math.sqrt(logits.reduce((sum, value) => sum + value * value, 0) / logits.length)
      expect(deviation).toBeGreaterThan(1)
      expect(deviation).toBeLessThan(4)
    } finally {
      await native().close(handle)
    }
  })

  it('stops when it is told to', async () => {
    const signal = AbortSignal.abort(new Error('enough'))
    await expect(writeRandomModel(join(root, 'e'), SHAPE, { signal })).rejects.toThrow('enough')
  })
})

describe('a model on the native boundary', () => {
  it.each(['full', 'int8'] as const)('takes steps of any tree with %s weights, one row each', async (weights) => {
    const { model, heads } = await writeRandomModel(join(root, `steps-${weights}`), SHAPE, { medusaHeads: 2 })
    const opened = await openModel({ model, heads: heads!, isa: 'auto', threads: 2, weights })
    const session = opened.session()
    try {
      // The third tree is deeper than there are heads.
      const trees = [1, 4, 64].map((count) => parseTree(count, 63))
      expect(await session.prefill(randomTokens(40, opened.vocab))).toBeGreaterThan(0)
      await session.checkRoots(trees)
      expect(session.rows()).toBe(40)
      for (const [i, tree] of [...trees, ...trees].entries()) {
        const { ms, verifyMs, commitMs } = await session.step(tree)
        expect(ms).toBeGreaterThanOrEqual(verifyMs + commitMs)
        expect(session.rows()).toBe(41 + i)
      }
      // Steps of the same session choose what plain decoding chooses: the roots of a second one, all plain.
      const plain = opened.session()
      await plain.prefill(randomTokens(40, opened.vocab))
      for (let i = 0; i < 6; i++) await plain.step(trees[0]!)
      expect(plain.root()).toBe(session.root())
      await plain.close()
    } finally {
      await session.close()
      await opened.close()
    }
  })

  it('counts the bytes that a step reads', async () => {
    const { model, heads } = await writeRandomModel(join(root, 'bytes'), SHAPE, { medusaHeads: 2 })
    const opened = await openModel({ model, heads: heads!, isa: 'auto', threads: 1 })
    const products = productsOf(SHAPE).reduce((sum, p) => sum + p.columns * p.depth * p.count, 0)
    const padded = 2 * (products + (208 - 200) * 64)
    const norms = 4 * 64 * (2 * 3 + 1)
    // K is held in tiles 32 deep.
    const rowBytes = 2 * 2 * (32 + 16) * 3
    expect(opened.verifyBytes(0)).toBe(padded + norms)
    expect(opened.verifyBytes(10) - opened.verifyBytes(0)).toBe(10 * rowBytes)
    // Blocks and biases, and the output projection once more.
    expect(opened.headsBytes()).toBe(2 * (2 * 64 * 64 + 4 * 64) + 2 * 200 * 64)
    await opened.close()
    const without = await openModel({ model, heads: false, isa: 'auto', threads: 1 })
    expect(without.headsBytes()).toBe(0)
    await without.close()
  })
})
