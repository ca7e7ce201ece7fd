// What command lines of benchmarks share.
import { expect, test } from 'vitest'
import { commandLine, numberList, wholeNumber, wordList } from '../../bench/support/command.js'

test('the command is what a user would type, without where its result went', () => {
  const argv = ['--tokens', '64', '--out', '/somewhere/else', '--model', 'my model', '--out=x', '--json']
  expect(commandLine('decode/decode', argv, {})).toBe(
    "npm run bench -- decode/decode --tokens 64 --model 'my model' --json",
  )
})

test('paths outside of the folder it runs in are told by their last part', () => {
  const argv = [
    '--data',
    '/home/me/cases',
    '--model=/models/tiny',
    '--heads',
    '../heads',
    '--file',
    'bench/a.txt',
    '--x=a/b',
  ]
  expect(commandLine('quality/longeval', argv, {})).toBe(
    'npm run bench -- quality/longeval --data cases --model=tiny --heads heads --file bench/a.txt --x=a/b',
  )
})

test('variables that change what runs are part of it', () => {
  const env = { GORGON_CPU: 'avx2', GORGON_COMMIT: 'abc', PATH: '/bin' }
  expect(commandLine('step', [], env)).toBe('GORGON_CPU=avx2 npm run bench -- step')
})

test('numbers and lists are read, and nothing else is', () => {
  expect(wholeNumber()('12')).toBe(12)
  expect(numberList()('1,2,16')).toEqual([1, 2, 16])
  for (const text of ['', '0', '-1', '1.5', '1e3', 'x', '99999999999999999999'])
    expect(() => wholeNumber()(text), text).toThrow('Use a whole number from 1.')
  expect(() => numberList()('1,,2')).toThrow('Use a whole number from 1.')
  expect(wordList(['full', 'snapkv'])('snapkv,full')).toEqual(['snapkv', 'full'])
  expect(() => wordList(['full', 'snapkv'])('snap')).toThrow('"snap" is not known. Use full, snapkv')
})
