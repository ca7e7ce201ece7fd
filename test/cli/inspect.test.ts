// gorgon inspect: a report for people or programs, and an exit code that says whether the folder loads.
import { cp, mkdtemp, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inspect } from '../../src/index.js'
import { errorLine, gorgon } from './command.js'

const MODEL = 'models/demo'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gorgon-inspect-'))
})
afterAll(() => rm(folder, { recursive: true }))

test('says what the demo model is, heads included', async () => {
  const { exitCode, stdout, stderr } = await gorgon(['inspect', MODEL])
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  expect(stdout).toMatch(/^architecture +llama: tied embeddings$/m)
  expect(stdout).toMatch(/^size +6 layers, hidden 384, ffn 1024, vocabulary 4096$/m)
  expect(stdout).toMatch(/^attention +GQA: 6 query and 2 KV heads of 64$/m)
  expect(stdout).toMatch(/^positions +16384, RoPE default \(theta 500000, scale 1\)$/m)
  expect(stdout).toMatch(/^weights +11\.0 M parameters, bf16, 21\.0 MiB, \d+ tensors in 1 file$/m)
  expect(stdout).toMatch(/^ +10\.6 MiB with --weights int8$/m)
  expect(stdout).toMatch(/^KV cache +3\.0 KiB per token/m)
  expect(stdout).toMatch(/^Medusa heads +4, 1 block each, through the model's lm_head$/m)
  expect(stdout).toMatch(/^loads +yes$/m)
})

test('--heads none leaves the heads out', async () => {
  const { stdout } = await gorgon(['inspect', MODEL, '--heads', 'none'])
  expect(stdout).toMatch(/^Medusa heads +none: plain decoding$/m)
})

test('--json is the report of the library', async () => {
  const { exitCode, stdout } = await gorgon(['inspect', MODEL, '--json'])
  expect(exitCode).toBe(0)
  expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(await inspect(MODEL))))
})

test('a model that does not load: what was found, the problem on standard error, exit code 2', async () => {
  await cp(MODEL, folder, { recursive: true })
  await truncate(join(folder, 'model.safetensors'), 1_000_000)
  const { exitCode, stdout, stderr } = await gorgon(['inspect', folder])
  expect(exitCode).toBe(2)
  expect(stdout).toMatch(/^size +6 layers/m)
  expect(stdout).toMatch(/^loads +no$/m)
  expect(errorLine(stderr)).toMatch(/^gorgon: ERR_SAFETENSORS: .*model\.safetensors/)

  const asJson = await gorgon(['inspect', folder, '--json'])
  expect(asJson.exitCode).toBe(2)
  expect(JSON.parse(asJson.stdout)).toMatchObject({ loads: false, problems: [{ code: 'ERR_SAFETENSORS' }] })
})

test('no model there', async () => {
  const { exitCode, stdout, stderr } = await gorgon(['inspect', join(folder, 'nothing')])
  expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
  expect(errorLine(stderr)).toMatch(/^gorgon: ERR_MODEL_NOT_FOUND: /)
})
