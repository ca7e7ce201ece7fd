// The pickle reader: what Python writes is read, and nothing else can make it run, wait or fill memory.
import { execFileSync, spawnSync } from 'node:child_process'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  MAX_PICKLE_BYTES,
  MAX_PICKLE_MEMO,
  MAX_PICKLE_OBJECTS,
  PickleFunction,
  PickleTuple,
  type PickleWorld,
  readPickle,
} from '../../../heads/convert/pickle.js'
import { isGorgonError } from '../../../src/errors.js'
import { failure } from '../../support/errors.js'
import { heldBytes } from '../../support/memory.js'
import { Called, Named, Persistent, pickle, Raw, Tuple } from '../../support/torch-file.js'

const calls: unknown[] = []
const world: PickleWorld = {
  globals: new Map<string, unknown>([
    ['known.function', new PickleFunction((args) => calls.push(args))],
    ['known.dict', new PickleFunction(() => new Map())],
    ['known.value', 'a value'],
  ]),
  persistent: (id) => ({ id }),
}
const read = (bytes: Uint8Array) => readPickle(bytes, world, 'heads.pt')
const bytes = (text: string) => Buffer.from(text, 'latin1')

describe('what is read', () => {
  test('plain values, in the order they were written', () => {
    const value = {
      text: 'é\u{1f600}',
      numbers: [0, -1, 255, 65536, -(2 ** 31), 2 ** 53 - 1],
      more: [1.5, null, true, false],
    }
    expect(read(pickle(value))).toEqual(new Map(Object.entries(value)))
    expect(read(pickle(2n ** 70n))).toBe(2n ** 70n)
    expect(read(pickle(-(2n ** 70n)))).toBe(-(2n ** 70n))
    expect(read(pickle(new Tuple([1, new Tuple([])])))).toEqual(new PickleTuple([1, new PickleTuple([])]))
  })

  test('functions and ids that the reader knows', () => {
    expect(read(pickle(new Called('known', 'function', [7, 'x'])))).toBe(1)
    expect(calls).toEqual([[7, 'x']])
    expect(read(pickle([new Named('known', 'value')]))).toEqual(['a value'])
    expect(read(pickle(new Persistent(new Tuple(['storage', 1]))))).toEqual({ id: new PickleTuple(['storage', 1]) })
  })

  test('attributes of a dict are not kept', () => {
    const dict = Buffer.concat([pickle(new Called('known', 'dict', [])).subarray(0, -1), bytes('}b.')])
    expect(read(dict)).toEqual(new Map())
  })

  const hasPython = spawnSync('python3', ['--version']).status === 0
  test.skipIf(!hasPython)(`what Python itself writes${hasPython ? '' : ' (skipped: no python3)'}`, () => {
    const json = fc.jsonValue({ maxDepth: 4 }).filter((value) => JSON.stringify(value).length < 2000)
    const values = fc.sample(json, 60).map((value) => JSON.parse(JSON.stringify(value)) as unknown)
    const script = [
      'import json, pickle, sys',
      'values = json.load(sys.stdin)',
      'print(json.dumps([[pickle.dumps(v, p).hex() for v in values] for p in (2, 3, 4)]))',
    ].join('\n')
    const output = execFileSync('python3', ['-c', script], { input: JSON.stringify(values), encoding: 'utf8' })
    for (const pickles of JSON.parse(output) as string[][]) {
      expect(pickles.map((hex) => plain(read(Buffer.from(hex, 'hex'))))).toEqual(values)
    }
  })
})

/** Maps to objects, and whole numbers of any size to what JSON makes of them. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  if (Array.isArray(value)) return value.map(plain)
  return value instanceof Map ? Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)])) : value
}

describe('what is refused:', () => {
  test.each([
    [
      'a call of the system',
      pickle(new Called('os', 'system', ['touch was-run'])),
      /asks for os\.system: .*nothing was run/,
    ],
    ['a function that is only named', pickle([new Named('builtins', 'eval')]), /asks for builtins\.eval/],
    ['one from the stack', pickle(new Raw(bytes('\x8c\x02os\x8c\x06system\x93'))), /asks for os\.system/],
    ['the older way to call', pickle(new Raw(bytes('(ios\nsystem\n'))), /asks for os\.system/],
    ['a member of what is known', pickle(new Named('known', 'value.__class__')), /asks for known\.value\.__class__/],
    ['a name with line breaks in it', pickle(new Raw(bytes('\x8c\x04a\nb"\x8c\x01c\x93'))), /asks for a\\nb\\"\.c/],
    ['a name from the stack that is no text', pickle(new Raw(bytes('K\x01K\x02\x93'))), /names a global with no text/],
    ['a call of a value', pickle(new Raw(bytes('K\x01)R'))), /calls what is not a function/],
    ['a call without arguments', pickle(new Raw(bytes('cknown\nfunction\nK\x01R'))), /calls what is not a function/],
    ['a new object of a class', pickle(new Raw(bytes('cknown\nvalue\n)\x81'))), /opcode 0x81/],
    ['an extension code', pickle(new Raw(bytes('\x82\x01'))), /opcode 0x82/],
    ['attributes of a list', pickle(new Raw(bytes(']}b'))), /gives attributes to what has none/],
    ['nothing', new Uint8Array(0), /does not begin with a protocol/],
    ['protocol 0', bytes('I1\n.'), /does not begin with a protocol/],
    ['protocol 5', bytes('\x80\x05N.'), /protocol 5; gorgon reads 2 to 4/],
    ['no end', bytes('\x80\x02N'), /cut short/],
    ['no value', bytes('\x80\x02.'), /does not end with one value/],
    ['two values', bytes('\x80\x02NN.'), /does not end with one value/],
    ['an open mark', bytes('\x80\x02(N.'), /does not end with one value/],
    ['a text longer than the file', bytes('\x80\x02X\xff\xff\xff\xffabc'), /cut short/],
    ['a text that is not UTF-8', bytes('\x80\x02U\x01\xff.'), /not UTF-8/],
    ['a line without end', bytes('\x80\x02cos'), /cut short/],
    ['a tuple of values that are not there', bytes('\x80\x02K\x01\x86.'), /a value that is not there/],
    ['a value from under a mark', bytes('\x80\x02](K\x01ae.'), /a value that is not there/],
    ['a close without an open', bytes('\x80\x02t.'), /closes what was not opened/],
    ['items of a list', bytes('\x80\x02]K\x01K\x02s.'), /sets items of what is not a dict/],
    ['a key without a value', bytes('\x80\x02}(K\x01u.'), /sets items of what is not a dict/],
    ['an object that was never made', bytes('\x80\x02h\x05.'), /has not made/],
  ])('%s', async (_, file, says) => {
    const error = await failure(() => read(file), 'ERR_HEADS_FORMAT', says)
    expect(error.message).toMatch(/^heads\.pt /)
  })

  test('a pickle over the limit', async () => {
    await failure(() => read(new Uint8Array(MAX_PICKLE_BYTES + 1)), 'ERR_HEADS_FORMAT', /gorgon reads at most/)
  })

  test.each([
    ['empty dicts', '}', MAX_PICKLE_OBJECTS],
    ['empty lists', ']', MAX_PICKLE_OBJECTS],
    ['empty tuples', ')', MAX_PICKLE_OBJECTS],
    ['calls', ')\x52', MAX_PICKLE_OBJECTS],
    ['things to remember', '\x94', MAX_PICKLE_MEMO],
  ])('as many %s as a file can hold, before they fill memory', async (_, opcodes, most) => {
    const call = opcodes.length > 1
    const repeated = call ? `cknown\ndict\n${opcodes}` : opcodes
    const file = bytes(`\x80\x02N${repeated.repeat(most + 1)}`).subarray(0, MAX_PICKLE_BYTES)
    const before = await heldBytes()
    const error = await failure(() => read(file), 'ERR_HEADS_FORMAT')
    expect(error.message).toContain(String(most))
    // What it came to by then is gone again, and was never more than this for each.
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(400 * most)
  })

  test('a tuple in a tuple, as often as a file may, is read, and walked by nobody', () => {
    expect(read(bytes(`\x80\x02N${'\x85'.repeat(MAX_PICKLE_OBJECTS)}.`))).toBeInstanceOf(PickleTuple)
  })
})

test('whatever the bytes, it ends with a value or an ERR_HEADS_FORMAT', () => {
  const opcodes = [...'()N.CBGJKMQRTUX]abcehijqrstu}'].map((one) => one.charCodeAt(0))
  const likely = fc.constantFrom(
    ...opcodes,
    0x80,
    0x85,
    0x86,
    0x87,
    0x88,
    0x89,
    0x8a,
    0x8c,
    0x93,
    0x94,
    0x95,
    0,
    1,
    2,
    10,
  )
  const body = fc.array(fc.oneof({ weight: 5, arbitrary: likely }, fc.nat({ max: 255 })), { maxLength: 200 })
  const kinds = { value: 0, refused: 0 }
  const property = fc.property(body, (list) => {
    try {
      read(Uint8Array.from([0x80, 2, ...list]))
      kinds.value++
    } catch (error) {
      if (!isGorgonError(error)) throw error
      expect(error.code).toBe('ERR_HEADS_FORMAT')
      kinds.refused++
    }
  })
  fc.assert(property, { numRuns: 20_000 })
  expect(Math.min(kinds.value, kinds.refused)).toBeGreaterThan(0)
})
