// A prompt comes from exactly one place, and what it holds is what was written there.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Io } from '../../src/cli/io.js'
import { readPrompt } from '../../src/cli/prompts.js'
import { failure } from '../support/errors.js'
import { Sink } from './command.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gorgon-prompts-'))
})
afterAll(() => rm(folder, { recursive: true }))

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, content)
  return path
}

const io = (stdin: Readable = new PassThrough().end(), signal = new AbortController().signal): Io => ({
  stdin,
  stdout: new Sink(),
  stderr: new Sink(),
  env: {},
  signal,
})

describe('text', () => {
  test('an argument is taken as it is, also when empty', async () => {
    expect(await readPrompt({ prompt: ' const x = ' }, io())).toBe(' const x = ')
    expect(await readPrompt({ prompt: '' }, io())).toBe('')
  })

  test('a file is taken as it is, line end included', async () => {
    expect(await readPrompt({ promptFile: await file('a.txt', 'größe = 1\n') }, io())).toBe('größe = 1\n')
  })

  test('- is standard input, in whatever pieces it comes', async () => {
    const bytes = Buffer.from('naïve ✓\n')
    const pieces = Readable.from([...bytes].map((byte) => Buffer.from([byte])))
    expect(await readPrompt({ promptFile: '-' }, io(pieces))).toBe('naïve ✓\n')
  })

  test('bytes that are not UTF-8 are refused rather than replaced', async () => {
    const path = await file('latin1.txt', Uint8Array.of(0x67, 0x72, 0xf6))
    await failure(() => readPrompt({ promptFile: path }, io()), 'ERR_FILE', /latin1\.txt is not UTF-8/)
    await failure(
      () => readPrompt({ promptFile: '-' }, io(Readable.from([Buffer.of(0xff)]))),
      'ERR_FILE',
      /standard input/,
    )
  })

  test('a file that is not there', async () => {
    await failure(() => readPrompt({ promptFile: join(folder, 'nothing') }, io()), 'ERR_FILE', /nothing.*ENOENT/)
  })

  test('an interruption ends the waiting for standard input', async () => {
    const abort = new AbortController()
    const waiting = readPrompt({ promptFile: '-' }, io(new PassThrough(), abort.signal))
    abort.abort()
    await expect(waiting).rejects.toThrow()
  })
})

describe('ids', () => {
  test('an array of ids is used as it is', async () => {
    expect(await readPrompt({ promptIds: await file('ids.json', '[0, 17, 4]\n') }, io())).toEqual([0, 17, 4])
  })

  test.each([
    ['not JSON', '[0, 1', /is not JSON/],
    ['no array', '{"ids": [1]}', /holds no array/],
    ['a fraction', '[0, 1.5]', /element 1 is 1\.5/],
    ['a negative', '[-1]', /element 0 is -1/],
    ['a string', '[1, 2, "3"]', /element 2 is "3"/],
  ])('%s is refused', async (name, json, message) => {
    const path = await file(`${name}.json`, json)
    await failure(() => readPrompt({ promptIds: path }, io()), 'ERR_FILE', message)
  })
})

describe('exactly one source', () => {
  test('none', async () => {
    await failure(() => readPrompt({}, io()), 'ERR_OPTION', /no prompt is given/)
  })

  test('several', async () => {
    const several = { prompt: 'x', promptIds: 'ids.json' }
    await failure(() => readPrompt(several, io()), 'ERR_OPTION', /PROMPT and --prompt-ids are given together/)
  })
})
