// Paths to routes: `:name` is one part of a path, `:name*` all that are left.
import { GorgonError } from '../errors.js'
import type { Route } from './http.js'

interface Match {
  readonly route: Route
  readonly params: Readonly<Record<string, string>>
}

export class Router {
  readonly #routes: readonly { readonly route: Route; readonly parts: readonly string[] }[]

  constructor(routes: readonly Route[]) {
    this.#routes = routes.map((route) => ({ route, parts: route.path.split('/') }))
  }

  /** Methods that a path takes; none where there is nothing. */
  methodsAt(path: string): readonly string[] {
    return this.#at(path).flatMap(({ route: { method } }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
  }

  /** @throws {GorgonError} ERR_ROUTE, ERR_METHOD. */
  find(method: string, path: string): Match {
    const there = this.#at(path)
    const asked = method === 'HEAD' ? 'GET' : method
    const match = there.find(({ route }) => route.method === asked)
    if (match) return match
    const shown = JSON.stringify(path.slice(0, 100))
    if (there.length === 0) throw new GorgonError('ERR_ROUTE', `There is nothing at ${shown}.`, { path })
    const methods = this.methodsAt(path)
    throw new GorgonError('ERR_METHOD', `${shown} takes ${methods.join(', ')}, not ${method.slice(0, 20)}.`, {
      methods,
    })
  }

  #at(path: string): readonly Match[] {
    const given = path.split('/')
    return this.#routes.flatMap(({ route, parts }) => {
      const params = matchParts(parts, given)
      return params ? [{ route, params }] : []
    })
  }
}

function matchParts(parts: readonly string[], given: readonly string[]): Record<string, string> | null {
  const takesRest = parts.at(-1)!.endsWith('*')
  if (takesRest ? parts.length > given.length : parts.length !== given.length) return null
  const params: Record<string, string> = {}
  for (const [i, part] of parts.entries()) {
    if (!part.startsWith(':')) {
      if (part !== given[i]) return null
      continue
    }
    const isRest = part.endsWith('*')
    const values = given.slice(i, isRest ? undefined : i + 1).map(decoded)
    if (values.some((value) => value === null || value === '')) return null
    params[part.slice(1, isRest ? -1 : undefined)] = values.join('/')
  }
  return params
}

function decoded(part: string): string | null {
  try {
    return decodeURIComponent(part)
  } catch {
    return null
  }
}
