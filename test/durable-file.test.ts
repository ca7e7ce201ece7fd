// Files and folders that replace others: whole or as they were, whatever the system refuses.
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { recoverFolder, removeParts, replaceFolder, writeDurably } from '../src/durable-file.js'
import { packageRoot } from '../src/native.js'
import { failure } from './support/errors.js'
import { temporaryFolder } from './support/folder.js'
import { TYPESCRIPT } from './support/program.js'

const folder = temporaryFolder()
const fresh = (name: string): string => {
  const dir = join(folder, name)
  mkdirSync(dir)
  return dir
}

/** As the system says it. */
const refusal = (code: string, syscall: string): Error =>
  Object.assign(new Error(`${code}: ${syscall}`), { code, syscall })

describe('a file', () => {
  test('is what was written, and nothing else is left', async () => {
    const dir = fresh('written')
    await writeDurably(join(dir, 'a'), (handle) => handle.writeFile('first'))
    await writeDurably(join(dir, 'a'), (handle) => handle.writeFile('second'))
    expect(readFileSync(join(dir, 'a'), 'utf8')).toBe('second')
    expect(readdirSync(dir)).toEqual(['a'])
  })

  test('is not there before it is whole', async () => {
    const dir = fresh('unseen')
    await writeDurably(join(dir, 'a'), async (handle) => {
      await handle.writeFile('half')
      expect(existsSync(join(dir, 'a'))).toBe(false)
    })
    expect(existsSync(join(dir, 'a'))).toBe(true)
  })

  test('that two write at once is one of the two', async () => {
    const path = join(fresh('raced'), 'a')
    const texts = ['x', 'y'].map((letter) => letter.repeat(100_000))
    await Promise.all(texts.map((text) => writeDurably(path, (handle) => handle.writeFile(text))))
    expect(texts).toContain(readFileSync(path, 'utf8'))
  })

  const disk = (code: string) => async (handle: FileHandle) => {
    handle.sync = () => Promise.reject(refusal(code, 'fsync'))
    await handle.writeFile('half')
  }
  test.each([
    ['a full disk', () => Promise.reject(refusal('ENOSPC', 'write')), /the disk is full\. Make room/],
    ['a full disk that shows when data is brought to it', disk('ENOSPC'), /the disk is full/],
    ['a quota', disk('EDQUOT'), /quota/],
    ['an error with no words of ours', disk('EWEIRD'), /EWEIRD/],
  ])('is as it was after %s', async (_, write, says) => {
    const dir = join(folder, 'refused')
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, 'a'), 'before')
    const error = await failure(() => writeDurably(join(dir, 'a'), write), 'ERR_WRITE', says)
    expect(error.details['file']).toBe(join(dir, 'a'))
    expect(readFileSync(join(dir, 'a'), 'utf8')).toBe('before')
    expect(readdirSync(dir)).toEqual(['a'])
  })

  test('leaves its parts behind when its process is killed, and they are removed by its name alone', async () => {
    const dir = fresh('parts')
    const others = ['a', 'a.part', 'a.0123456789ab.part.txt', 'a.svg.0123456789ab.part', 'b.0123456789ab.part']
    for (const name of [...others, 'a.0123456789ab.part', 'a.ffffffffffff.part']) writeFileSync(join(dir, name), 'x')
    await removeParts(join(dir, 'a'))
    expect(readdirSync(dir).sort()).toEqual([...others].sort())
  })

  test('that may not grow so large is refused by the real system', () => {
    const dir = fresh('limited')
    const script = `
      import { writeDurably } from ${JSON.stringify(join(packageRoot(), 'src', 'durable-file.ts'))}
      try {
        await writeDurably(${JSON.stringify(join(dir, 'a'))}, (handle) => handle.writeFile(new Uint8Array(8 << 20)))
      } catch (error) {
        process.stdout.write(error.code + ' ' + error.message)
      }`
    const limited = ['-c', 'ulimit -f 4096 && exec "$@"', 'sh', process.execPath, ...TYPESCRIPT]
    const said = execFileSync('sh', [...limited, '--input-type=module', '-e', script], { encoding: 'utf8' })
    expect(said).toMatch(/^ERR_WRITE .*files may not become that large here/)
    expect(readdirSync(dir)).toEqual([])
  })

  test('keeps an error that is not of writing', async () => {
    const dir = fresh('own error')
    const mine = new Error('mine')
    await expect(writeDurably(join(dir, 'a'), () => Promise.reject(mine))).rejects.toBe(mine)
    const reading = refusal('EIO', 'read')
    await expect(writeDurably(join(dir, 'a'), () => Promise.reject(reading))).rejects.toBe(reading)
    expect(readdirSync(dir)).toEqual([])
  })

  test('says what is wrong with its path', async () => {
    const nothing = () => Promise.resolve()
    await failure(() => writeDurably(join(folder, 'absent', 'a'), nothing), 'ERR_WRITE', /folder does not exist/)
    writeFileSync(join(folder, 'file'), '')
    await failure(() => writeDurably(join(folder, 'file', 'a'), nothing), 'ERR_WRITE', /a part of its path is a file/)
    await failure(() => writeDurably(fresh('taken'), nothing), 'ERR_WRITE', /it is a folder/)
  })

  test.skipIf(process.getuid?.() === 0)('says that permission is denied', async () => {
    const dir = fresh('read-only')
    chmodSync(dir, 0o500)
    await failure(() => writeDurably(join(dir, 'a'), () => Promise.resolve()), 'ERR_WRITE', /permission is denied/)
  })
})

describe('a folder', () => {
  const fill = (text: string) => (dir: string) => writeDurably(join(dir, 'state'), (handle) => handle.writeFile(text))
  const read = (dir: string) => readFileSync(join(dir, 'checkpoint', 'state'), 'utf8')

  test('replaces another, whole', async () => {
    const dir = fresh('replaced')
    await replaceFolder(join(dir, 'checkpoint'), fill('first'))
    expect(read(dir)).toBe('first')
    await replaceFolder(join(dir, 'checkpoint'), fill('second'))
    expect(read(dir)).toBe('second')
    expect(readdirSync(dir)).toEqual(['checkpoint'])
  })

  test('is as it was when it could not be filled', async () => {
    const dir = fresh('not filled')
    await replaceFolder(join(dir, 'checkpoint'), fill('first'))
    const full = () => replaceFolder(join(dir, 'checkpoint'), () => Promise.reject(new Error('no')))
    await expect(full()).rejects.toThrow('no')
    expect(read(dir)).toBe('first')
    expect(readdirSync(dir)).toEqual(['checkpoint'])
  })

  test('is recovered from wherever a crash cut its replacing short', async () => {
    const dir = fresh('crashed')
    const path = join(dir, 'checkpoint')
    await recoverFolder(path)
    expect(readdirSync(dir)).toEqual([])

    await replaceFolder(path, fill('first'))
    // While the new one was filled.
    mkdirSync(`${path}.new`)
    writeFileSync(join(`${path}.new`, 'half'), '')
    await recoverFolder(path)
    expect([read(dir), readdirSync(dir)]).toEqual(['first', ['checkpoint']])

    // Between the renames: the new one is whole, but only the old one is known to be.
    renameSync(path, `${path}.old`)
    mkdirSync(`${path}.new`)
    await recoverFolder(path)
    expect([read(dir), readdirSync(dir)]).toEqual(['first', ['checkpoint']])

    // Before the old one was removed.
    mkdirSync(`${path}.old`)
    await recoverFolder(path)
    expect([read(dir), readdirSync(dir)]).toEqual(['first', ['checkpoint']])

    // And replacing goes on from each of these by itself.
    renameSync(path, `${path}.old`)
    await replaceFolder(path, fill('second'))
    expect([read(dir), readdirSync(dir)]).toEqual(['second', ['checkpoint']])
  })

  test('whose parent is missing is ERR_WRITE', async () => {
    await failure(() => replaceFolder(join(folder, 'absent', 'a'), fill('x')), 'ERR_WRITE', /folder does not exist/)
  })
})
