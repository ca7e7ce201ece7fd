// --tree FILE.json: the paths of a tree, and nothing else.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readTreeFile } from '../../src/cli/tree-file.js'
import { failure } from '../support/errors.js'
import { temporaryFolder } from '../support/folder.js'
import { errorLine, gorgon } from './command.js'

const dir = temporaryFolder()
let count = 0
const file = (text: string): string => {
  const path = join(dir, `${count++}.json`)
  writeFileSync(path, text)
  return path
}

test('gives the paths, whatever else there is', () => {
  expect(readTreeFile(file('{ "nodes": 3, "paths": [[0], [0, 0]], "other": true }'))).toEqual({ paths: [[0], [0, 0]] })
})

test.each([
  ['no JSON', '{ "paths": [[0]', 'ERR_TREE'],
  ['an array', '[[0], [0, 0]]', 'ERR_TREE'],
  ['no paths', '{ "rank_accuracy": [[0.5]] }', 'ERR_TREE'],
  ['paths that are none', '{ "paths": "00" }', 'ERR_TREE'],
  ['more than a tree can be', `{ "paths": [${' '.repeat(2 ** 20)}] }`, 'ERR_TREE'],
  ['endless nesting', `{ "paths": ${'['.repeat(10_000)}`, 'ERR_TREE'],
] as const)('refuses %s', async (_, text, code) => {
  const path = file(text)
  const error = await failure(() => readTreeFile(path), code)
  expect(error.message).toContain(path)
})

test('refuses a file that is not there, or no file', async () => {
  await failure(() => readTreeFile(join(dir, 'nowhere.json')), 'ERR_FILE', /nowhere/)
  await failure(() => readTreeFile(dir), 'ERR_FILE')
})

test.each([
  ['a path before its parent', '{ "paths": [[0, 0]] }'],
  ['a rank that no tree has', '{ "paths": [[10]] }'],
  ['more paths than a tree', JSON.stringify({ paths: Array.from({ length: 64 }, (_, i) => new Array(i + 1).fill(0)) })],
  ['a tree deeper than the heads', '{ "paths": [[0], [0, 0], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0, 0]] }'],
])('an engine refuses %s', async (_, text) => {
  const { exitCode, stderr } = await gorgon(['generate', 'a', '--tree', file(text), '--max-tokens', '2'])
  expect(exitCode).toBe(2)
  expect(errorLine(stderr)).toMatch(/ERR_TREE/)
})

test('an engine refuses paths that are no arrays of numbers', async () => {
  const { exitCode, stderr } = await gorgon(['generate', 'a', '--tree', file('{ "paths": [["0"]] }')])
  expect(exitCode).toBe(2)
  expect(errorLine(stderr)).toMatch(/ERR_OPTION: --tree is ".*\.json": use .*\.json file/)
})
