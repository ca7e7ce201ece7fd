// The form becomes a request that says only what was filled in.
import { expect, test } from 'vitest'
import { parse } from '../../../src/schema.js'
import { type FieldProblem, type Fields, fieldOf, optionsOf } from '../../../src/server/playground/request.js'
import { RequestOptions } from '../../../src/server/protocol.js'

const EMPTY: Fields = {
  maxTokens: '',
  temperature: '',
  topP: '',
  seed: '',
  stop: '',
  mode: '',
  tree: '',
  policy: '',
  budget: '',
}

test('an empty form leaves everything to the server', () => {
  expect(optionsOf(EMPTY)).toEqual({})
})

test('what is filled in is sent, and the server takes it', () => {
  const options = optionsOf({
    maxTokens: ' 64 ',
    temperature: '0.7',
    topP: '0.9',
    seed: '7',
    stop: 'END\n\\n\\n\na\\\\b',
    mode: 'medusa',
    tree: '16',
    policy: 'snapkv',
    budget: '512',
  })
  expect(options).toEqual({
    maxTokens: 64,
    temperature: 0.7,
    topP: 0.9,
    seed: 7,
    stop: ['END', '\n\n', 'a\\b'],
    speculation: { mode: 'medusa', tree: 16 },
    kv: { policy: 'snapkv', budget: 512 },
  })
  expect(() => parse(RequestOptions, options)).not.toThrow()
})

test('the name of a tree stays a name', () => {
  expect(optionsOf({ ...EMPTY, tree: 'chain:3' })).toEqual({ speculation: { tree: 'chain:3' } })
})

test('text where a number belongs is named with its field', () => {
  expect(() => optionsOf({ ...EMPTY, temperature: 'warm' })).toThrow(
    expect.objectContaining({
      field: 'temperature',
      message: expect.stringContaining('"warm"'),
    } as Partial<FieldProblem>),
  )
})

test.each<[Partial<Fields>, keyof Fields]>([
  [{ temperature: '1000' }, 'temperature'],
  [{ topP: '2' }, 'topP'],
  [{ maxTokens: '0' }, 'maxTokens'],
  [{ seed: '-1' }, 'seed'],
  [{ policy: 'snap' }, 'policy'],
  [{ budget: '1' }, 'budget'],
  [{ mode: 'fast' }, 'mode'],
])('what the schemas say about %o finds its field', (fields, field) => {
  let message = ''
  try {
    parse(RequestOptions, optionsOf({ ...EMPTY, ...fields }), 'options')
  } catch (error) {
    message = (error as Error).message
  }
  expect(fieldOf({ code: 'ERR_OPTION', message })).toBe(field)
})

test('some errors are about a field by their kind', () => {
  expect(fieldOf({ code: 'ERR_TREE', message: 'Tree "oak" is not known.' })).toBe('tree')
  expect(fieldOf({ code: 'ERR_EMPTY_PROMPT', message: 'There is nothing to go on with.' })).toBe('prompt')
})

test('a message about something else points at no field', () => {
  expect(fieldOf({ code: 'ERR_INTERNAL', message: 'The server failed.' })).toBeUndefined()
})
