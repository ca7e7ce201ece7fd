// What the form says, as a request: empty fields are left to the server, whose schemas have the last word.
import type { GenerateOptions } from '../../client/browser.js'

/** Every field of the form, as typed. */
export interface Fields {
  readonly maxTokens: string
  readonly temperature: string
  readonly topP: string
  readonly seed: string
  readonly stop: string
  readonly mode: string
  readonly tree: string
  readonly policy: string
  readonly budget: string
}

export type FieldName = keyof Fields | 'prompt'

/** A field that cannot be sent as it is. */
export class FieldProblem extends Error {
  readonly field: keyof Fields

  constructor(field: keyof Fields, message: string) {
    super(message)
    this.field = field
  }
}

/** By the path that a server's message begins with. */
const FIELD_OF_PATH: Readonly<Record<string, keyof Fields>> = {
  maxTokens: 'maxTokens',
  temperature: 'temperature',
  topP: 'topP',
  seed: 'seed',
  stop: 'stop',
  'speculation.mode': 'mode',
  'speculation.tree': 'tree',
  'kv.policy': 'policy',
  'kv.budget': 'budget',
}

/** Where the message names no option. */
const FIELD_OF_CODE: Readonly<Record<string, FieldName>> = {
  ERR_CONTEXT_OVERFLOW: 'prompt',
  ERR_EMPTY_PROMPT: 'prompt',
  ERR_TREE: 'tree',
}

/** The field that an error is about: `options.kv.budget is 8, not larger than …`. */
export function fieldOf({
  code = '',
  message,
}: {
  readonly code?: string
  readonly message: string
}): FieldName | undefined {
  const path = /^(?:options\.)?([a-zA-Z.]+)/.exec(message)?.[1] ?? ''
  return FIELD_OF_PATH[path] ?? FIELD_OF_PATH[path.split('.')[0]!] ?? FIELD_OF_CODE[code]
}

function numberIn(fields: Fields, field: keyof Fields): number | undefined {
  const typed = fields[field].trim()
  if (typed === '') return undefined
  const value = Number(typed)
  if (Number.isFinite(value)) return value
  throw new FieldProblem(field, `"${typed}" is not a number. Write one, or leave the field empty.`)
}

/** A number of nodes, or a name; empty is `auto`. */
function treeIn({ tree }: Fields): string | number | undefined {
  const typed = tree.trim()
  if (typed === '') return undefined
  return /^\d+$/.test(typed) ? Number(typed) : typed
}

/** One per line; `\n`, `\t` and `\\` stand for a line break, a tab and a backslash. */
function stopIn({ stop }: Fields): string[] | undefined {
  const escapes: Readonly<Record<string, string>> = { n: '\n', t: '\t', '\\': '\\' }
  const strings = stop
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.replace(/\\([nt\\])/g, (_, letter: string) => escapes[letter]!))
  return strings.length > 0 ? strings : undefined
}

/** Only what is given. */
function given<T extends object>(values: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never
}

/** @throws {FieldProblem} for text where a number belongs. */
export function optionsOf(fields: Fields): GenerateOptions {
  const speculation = given({ mode: fields.mode || undefined, tree: treeIn(fields) })
  const kv = given({ policy: fields.policy || undefined, budget: numberIn(fields, 'budget') })
  return given({
    maxTokens: numberIn(fields, 'maxTokens'),
    temperature: numberIn(fields, 'temperature'),
    topP: numberIn(fields, 'topP'),
    seed: numberIn(fields, 'seed'),
    stop: stopIn(fields),
    speculation: Object.keys(speculation).length > 0 ? speculation : undefined,
    kv: Object.keys(kv).length > 0 ? kv : undefined,
  }) as GenerateOptions
}
