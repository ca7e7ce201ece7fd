// What schemas are made of, and how their issues become one GorgonError.
//
// An issue's message says what is allowed ("a whole number from 1 to 64") and `problemOf` puts the path and the value before it; rules between
// fields bring whole sentences.
import { z } from 'zod'
import { GorgonError } from './errors.js'

const INT32_MAX = 2 ** 31 - 1

/** Told of one value; the rest of a hostile one is not worth the work. */
const MOST_PROBLEMS = 8

/** Single edits between two words: insert, delete, replace, swap neighbours. */
function editDistance(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) =>
    Array.from({ length: b.length + 1 }, (_, j) => (i === 0 ? j : j === 0 ? i : 0)),
  )
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const replace = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      let best = Math.min(replace, rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, rows[i - 2]![j - 2]! + 1)
      rows[i]![j] = best
    }
  }
  return rows[a.length]![b.length]!
}

/** The known word a misspelt one most likely stands for; spelling with other case or separators counts as no edit. */
export function didYouMean(word: string, known: readonly string[]): string | undefined {
  const plain = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]/g, '')
  const typed = plain(word.slice(0, 64))
  const [nearest] = known
    .map((name) => ({ name, distance: editDistance(typed, plain(name)) }))
    .sort((a, b) => a.distance - b.distance)
  return nearest && nearest.distance <= Math.max(1, Math.floor(nearest.name.length / 3)) ? nearest.name : undefined
}

/** ` Did you mean "…"?`, or nothing. */
export const suggest = (word: unknown, known: readonly string[]): string => {
  const meant = typeof word === 'string' ? didYouMean(word, known) : undefined
  return meant === undefined ? '' : ` Did you mean "${meant}"?`
}

const quoted = (names: readonly string[]): string => names.map((name) => `"${name}"`).join(', ')

/**
 * A strict object: a key it does not know is an error with a suggestion.
 *
 * @param unlisted keys of it that nobody is to be led to.
 */
export const strict = <Shape extends z.ZodRawShape>(shape: Shape, unlisted: readonly string[] = []) =>
  z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys') return 'an object of options'
      const known = Object.keys(shape)
      const listed = known.filter((name) => !unlisted.includes(name))
      const keys = (issue as unknown as { keys: string[] }).keys
      return keys
        .slice(0, MOST_PROBLEMS)
        .map(
          (key) => `${showValue(key)} is not an option here.${suggest(key, known) || ` Known: ${listed.join(', ')}.`}`,
        )
        .join(' ')
    },
  })

/** @param unlisted more that are taken, and that nobody is to be led to. */
export const oneOf = <const Names extends readonly [string, ...string[]], const Unlisted extends string = never>(
  names: Names,
  unlisted: readonly Unlisted[] = [],
) =>
  z.enum([...names, ...unlisted] as unknown as readonly [...Names, ...Unlisted[]], {
    error: (issue) => `one of ${quoted(names)}.${suggest(issue.input, names)}`,
  })

export const integer = (minimum: number, maximum = INT32_MAX) => {
  const allowed =
    maximum === INT32_MAX ? `a whole number, at least ${minimum}` : `a whole number from ${minimum} to ${maximum}`
  return z.int(allowed).min(minimum, allowed).max(maximum, `a whole number from ${minimum} to ${maximum}`)
}

export const between = (minimum: number, maximum: number) => {
  const allowed = `a number from ${minimum} to ${maximum}`
  return z.number(allowed).min(minimum, allowed).max(maximum, allowed)
}

export const above = (bound: number, maximum: number) => {
  const allowed = `a number above ${bound}, at most ${maximum}`
  return z.number(allowed).gt(bound, allowed).max(maximum, allowed)
}

export const numberThat = (holds: (value: number) => boolean, allowed: string) =>
  z.number(allowed).refine(holds, allowed)

/** An array of which the first wrong item alone is told: a hostile million of them makes no million messages. */
export const list = <Item extends z.ZodType>(
  item: Item,
  allowed: string,
  minimum = 0,
  maximum?: number,
): z.ZodArray<Item> => {
  const values = z.array(z.unknown(), allowed).min(minimum, allowed)
  // Of too many none is looked at.
  return (maximum === undefined ? values : values.max(maximum, { error: allowed, abort: true }))
    .superRefine((values, context) => {
      for (const [index, value] of values.entries()) {
        const issue = item.safeParse(value).error?.issues[0]
        if (issue) {
          context.addIssue({ ...issue, path: [index, ...issue.path] } as z.core.$ZodSuperRefineIssue)
          return
        }
      }
    })
    .meta({ items: jsonSchemaOf(item) }) as unknown as z.ZodArray<Item>
}

/** As a part of another schema, which says itself of which draft it is. */
function jsonSchemaOf(part: z.ZodType): object {
  const { $schema: _, ...schema } = z.toJSONSchema(part, { io: 'input' })
  return schema
}

export const flag = () => z.boolean('true or false')
export const text = (allowed: string) => z.string(allowed).min(1, allowed)
export const callback = <Argument>() =>
  z.custom<(event: Argument) => void>((value) => typeof value === 'function', 'a function')

/** Recognised by shape: a signal of another realm is as good as ours. */
export const abortSignal = () =>
  z.custom<AbortSignal>((value) => {
    const signal = value as Partial<AbortSignal> | null
    return (
      typeof signal === 'object' &&
      signal !== null &&
      typeof signal.aborted === 'boolean' &&
      typeof signal.addEventListener === 'function'
    )
  }, 'an AbortSignal')

type WithoutDefaults<Shape extends z.ZodRawShape> = {
  [Key in keyof Shape]: z.ZodOptional<Shape[Key] extends z.ZodDefault<infer Inner> ? Inner : Shape[Key]>
}

/** The same fields, each optional and without its default: what a request may override, with "not given" still visible. */
export const withoutDefaults = <Shape extends z.ZodRawShape>(shape: Shape): WithoutDefaults<Shape> =>
  Object.fromEntries(
    Object.entries(shape).map(([key, field]) => [
      key,
      z.optional(field instanceof z.ZodDefault ? field.unwrap() : field),
    ]),
  ) as WithoutDefaults<Shape>

/**
 * Adds an issue whose message is a whole sentence.
 *
 * @param isSecret the error does not repeat the value.
 */
export function violate(
  context: z.RefinementCtx,
  path: readonly PropertyKey[],
  sentence: string,
  { isSecret = false } = {},
): void {
  context.addIssue({ code: 'custom', path: [...path], message: sentence, params: { sentence: true, secret: isSecret } })
}

/** What its errors do not repeat: they say what is allowed, and nothing of what was given. */
export const secret = <Schema extends z.ZodType>(schema: Schema, allowed: string) =>
  z
    .custom<z.input<Schema>>()
    .superRefine((value, context) => {
      if (schema.safeParse(value).success) return
      context.addIssue({ code: 'custom', message: allowed, params: { secret: true } })
    })
    .pipe(schema as z.ZodType<z.output<Schema>, z.input<Schema>>)

function showPath(path: readonly PropertyKey[]): string {
  let shown = ''
  for (const key of path) shown += typeof key === 'number' ? `[${key}]` : shown === '' ? String(key) : `.${String(key)}`
  return shown
}

/** A value in an error message: short, whatever it is. */
function showValue(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  return Array.isArray(value) ? `an array of ${value.length}` : 'an object'
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined
    value = (value as Record<PropertyKey, unknown>)[key]
  }
  return value
}

/** One issue as a sentence, with what it is about. */
function problemOf(issue: z.core.$ZodIssue, input: unknown, where: string) {
  const path = showPath(where === '' ? issue.path : [where, ...issue.path])
  const value = valueAt(input, issue.path)
  const subject = path === '' ? 'The value given' : path
  const full = (message: string): string => (/[.?]$/.test(message) ? message : `${message}.`)
  if (issue.code === 'unrecognized_keys') {
    const [key = ''] = issue.keys
    return {
      path: path === '' ? key : `${path}.${key}`,
      value: valueAt(input, [...issue.path, key]),
      message: path === '' ? issue.message : `${path}: ${issue.message}`,
    }
  }
  if (issue.code === 'custom') {
    const { sentence, secret } = issue.params ?? {}
    const shown = secret === true ? undefined : value
    if (sentence === true) return { path, value: shown, message: `${subject} ${issue.message}` }
    if (secret === true)
      return { path, value: shown, message: `${subject} is something else: use ${full(issue.message)}` }
  }
  if (value === undefined) return { path, value, message: `${subject} is missing: give ${full(issue.message)}` }
  if (issue.code === 'invalid_key') {
    const key = issue.path.at(-1)
    return {
      path,
      value: key,
      message: `${showPath(issue.path.slice(0, -1))} has the key ${showValue(key)}: use ${full(issue.message)}`,
    }
  }
  return { path, value, message: `${subject} is ${showValue(value)}: use ${full(issue.message)}` }
}

/**
 * The value with defaults.
 *
 * @param where what the value is called, when it is a part of something.
 * @throws {GorgonError} ERR_OPTION naming path, value and what is allowed.
 */
export function parse<Schema extends z.ZodType>(schema: Schema, input: unknown, where = ''): z.output<Schema> {
  const result = schema.safeParse(input)
  if (result.success) return result.data
  const problems = result.error.issues.slice(0, MOST_PROBLEMS).map((issue) => problemOf(issue, input, where))
  const messages = [...new Set(problems.map((problem) => problem.message))]
  throw new GorgonError('ERR_OPTION', messages.join('\n'), {
    path: problems[0]!.path,
    value: problems[0]!.value,
    problems,
  })
}
