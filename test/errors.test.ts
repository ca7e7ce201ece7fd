// Holds the three homes of error codes together: src/errors.ts, kernels/common/status.def and ERRORS.md.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import {
  CLIENT_ERROR_CODES,
  ERROR_CODES,
  GorgonError,
  isGorgonError,
  liftNativeErrors,
  NATIVE_ERROR_CODES,
} from '../src/errors.js'

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')

const inStatusDef = [...read('kernels/common/status.def').matchAll(/^GORGON_STATUS\(\w+, "(\w+)", "[^"]+"\)$/gm)].map(
  (match) => match[1],
)
const documented = (heading: string) => {
  const section =
    read('ERRORS.md')
      .split(/^## /m)
      .find((text) => text.startsWith(heading)) ?? ''
  return [...section.matchAll(/^\| `(ERR_\w+)` \| (.+) \| (.+) \|$/gm)].map((match) => match[1])
}

describe('error codes', () => {
  test('native codes are those of status.def, in the same order', () => {
    expect(inStatusDef).toEqual([...NATIVE_ERROR_CODES])
  })

  test('every line of status.def is an entry', () => {
    const entries = read('kernels/common/status.def')
      .split('\n')
      .filter((line) => line.startsWith('GORGON_STATUS'))
    expect(inStatusDef).toHaveLength(entries.length)
  })

  test('ERRORS.md explains each code of all tables once, in order', () => {
    expect(documented('Raised by TypeScript')).toEqual([...ERROR_CODES])
    expect(documented('Raised by the client')).toEqual([...CLIENT_ERROR_CODES])
    expect(documented('Raised by the addon')).toEqual([...NATIVE_ERROR_CODES])
  })

  test('all tables are sorted by word and share no code', () => {
    const byWord = (a: string, b: string) => (a.replaceAll('_', ' ') < b.replaceAll('_', ' ') ? -1 : 1)
    const tables = [ERROR_CODES, CLIENT_ERROR_CODES, NATIVE_ERROR_CODES]
    for (const table of tables) expect([...table].sort(byWord)).toEqual([...table])
    expect(new Set(tables.flat()).size).toBe(tables.flat().length)
  })
})

describe('GorgonError', () => {
  test('carries code, details and cause', () => {
    const cause = new Error('underneath')
    const error = new GorgonError('ERR_OPTION', 'budget is 0', { budget: 0 }, cause)
    expect(error).toMatchObject({ name: 'GorgonError', code: 'ERR_OPTION', details: { budget: 0 }, cause })
  })

  test('is recognised by its brand, so another copy of the package counts', () => {
    expect(isGorgonError(new GorgonError('ERR_TREE', 'x'))).toBe(true)
    expect(isGorgonError({ [Symbol.for('gorgon.error')]: true })).toBe(true)
    for (const other of [new Error('ERR_TREE'), null, undefined, 'ERR_TREE', { code: 'ERR_TREE' }]) {
      expect(isGorgonError(other)).toBe(false)
    }
  })
})

describe('liftNativeErrors', () => {
  const coded = (code: string) => Object.assign(new Error('native says so'), { code })
  const addon = liftNativeErrors({
    throws: () => {
      throw coded('ERR_SHAPE')
    },
    rejects: async () => {
      throw coded('ERR_BUSY')
    },
    foreign: () => {
      throw coded('EACCES')
    },
    answer: (a: number, b: number) => a + b,
    ops: {
      rejects: async () => {
        throw coded('ERR_STATE')
      },
    },
  })

  test('thrown and rejected errors become GorgonErrors with the native one as cause', async () => {
    expect(addon.throws).toThrow(expect.objectContaining({ name: 'GorgonError', code: 'ERR_SHAPE' }))
    await expect(addon.rejects()).rejects.toMatchObject({ code: 'ERR_BUSY', cause: { message: 'native says so' } })
    await expect(addon.ops.rejects()).rejects.toMatchObject({ name: 'GorgonError', code: 'ERR_STATE' })
  })

  test('a rejected error keeps the stack of the call', async () => {
    const error = await addon.rejects().catch((e: unknown) => e)
    expect((error as Error).stack).toContain('errors.test.ts')
  })

  test('answers and errors with other codes pass through', () => {
    expect(addon.answer(2, 3)).toBe(5)
    expect(addon.foreign).toThrow(expect.objectContaining({ code: 'EACCES', name: 'Error' }))
  })
})
