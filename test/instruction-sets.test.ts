// Which instruction set runs a model must not show: whole forward passes and generations, bit for bit.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CHOICES, firstPaths } from '../src/decode/choices.js'
import { buildTree } from '../src/decode/tree.js'
import { type ModelHandle, native, packageRoot } from '../src/native.js'
import { isCpu } from './support/backend.js'
import { decode, forwardLogits, openModel, sampled, snapkv } from './support/native-session.js'
import { writeTinyModel } from './support/tiny-model.js'

const cpu = native()
  .backends()
  .find((backend) => backend.name === 'cpu')!
const isas = cpu.isas.filter((isa) => isa.usable).map((isa) => isa.name)
const others = isas.filter((isa) => isa !== 'portable')

async function withModel<T>(
  dir: string,
  options: Parameters<typeof openModel>[1],
  use: (model: ModelHandle) => Promise<T>,
): Promise<T> {
  const model = await openModel(dir, options)
  try {
    return await use(model)
  } finally {
    await native().close(model)
  }
}

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'gorgon-isas-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

describe.skipIf(others.length === 0 || !isCpu)(
  `against portable: ${isCpu ? others.join(', ') || 'skipped: this processor has no other' : 'skipped: they are of the CPU'}`,
  () => {
    const tokens = Array.from({ length: 150 }, (_, i) => (i * 7919 + 13) % 320)

    for (const [dtype, weights] of [
      ['bf16', 'full'],
      ['f16', 'full'],
      ['f32', 'full'],
      ['f32', 'int8'],
    ] as const) {
      for (const architecture of ['llama', 'qwen3'] as const) {
        it(`${architecture} in ${dtype}, ${weights} weights: logits of a text, in chunks of any size`, async () => {
          const tiny = join(dir, `${architecture}-${dtype}-${weights}`)
          await writeTinyModel(tiny, {
            architecture,
            dtype,
            vocab: 320,
            hidden: 64,
            headDim: 16,
            queryHeads: 4,
            kvHeads: 2,
          })
          const expected = await withModel(tiny, { weights, isa: 'portable' }, async (model) =>
            forwardLogits(model, tokens),
          )
          expect(expected.every(Number.isFinite)).toBe(true)
          for (const isa of isas) {
            for (const [threads, chunk] of [
              [1, 512],
              [3, 37],
            ] as const) {
              const actual = await withModel(tiny, { weights, isa, threads }, async (model) =>
                forwardLogits(model, tokens, chunk),
              )
              expect(
                Buffer.compare(Buffer.from(actual.buffer), Buffer.from(expected.buffer)),
                `${isa}, chunks of ${chunk}`,
              ).toBe(0)
            }
          }
        })
      }
    }

    it.each(['full', 'int8'] as const)(
      'the demo model, %s weights: sampled tokens with Medusa over a compressed cache',
      async (weights) => {
        const demo = join(packageRoot(), 'models', 'demo')
        const heads = join(packageRoot(), 'heads', 'demo')
        const options = {
          sampling: sampled(0.8, 11n, { topP: 0.9 }),
          tree: buildTree(firstPaths(CHOICES.mc_sim_7b_63, 7)),
          compression: snapkv(40, 16, 7, 'max'),
        }
        const results = []
        for (const isa of isas) {
          results.push(
            await withModel(demo, { heads, weights, isa }, (model) => decode(model, tokens.slice(0, 70), 24, options)),
          )
        }
        for (const result of results) expect(result).toEqual(results[0])
      },
    )
  },
)
