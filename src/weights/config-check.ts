// The three ways a configuration is refused: a field that is not what it should be, a contradiction, a feature we lack.
import type { z } from 'zod'
import { GorgonError } from '../errors.js'

/** `json` as the schema has it, or ERR_MODEL_CONFIG naming the first field that is wrong, its value and what is allowed. */
export function check<T>(schema: z.ZodType<T>, json: unknown, where: string, prefix = ''): T {
  const result = schema.safeParse(json)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  const path = prefix + issue.path.join('.')
  const value = issue.path.reduce<unknown>((v, key) => (v as Record<PropertyKey, unknown> | undefined)?.[key], json)
  const shown = value === undefined ? 'missing' : JSON.stringify(value).slice(0, 80)
  throw new GorgonError('ERR_MODEL_CONFIG', `${where}: ${path} is ${shown}. ${issue.message}.`, {
    file: where,
    key: path,
    value,
  })
}

/** ERR_MODEL_CONFIG: the file is wrong, or contradicts itself. */
export function configError(where: string, what: string): GorgonError {
  return new GorgonError('ERR_MODEL_CONFIG', `${where} ${what}. Check that the file belongs to this model.`, {
    file: where,
  })
}

/** ERR_UNSUPPORTED: the file asks for something that is not implemented. */
export function unsupported(where: string, what: string, key: string, instead: string): GorgonError {
  return new GorgonError('ERR_UNSUPPORTED', `${where}: ${what} (${key}) is not implemented. Implemented: ${instead}.`, {
    file: where,
    key,
  })
}
