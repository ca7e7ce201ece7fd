// JSON from files nobody vouches for: bounded in size and depth before it is parsed.
import { type ErrorCode, GorgonError } from './errors.js'
import { readText } from './read-text.js'

/** Largest JSON file or header read: the biggest in use are a few MiB. */
export const MAX_JSON_BYTES = 16 * 1024 * 1024
/** Deepest nesting read. JSON.parse has no bound of its own, and a file of brackets alone would exhaust memory. */
export const MAX_JSON_DEPTH = 32

/** True for a JSON object, as opposed to an array, null or a plain value. */
export function isJsonObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** What one pass over JSON text shows before it is parsed. Text that is not JSON gives some answer; JSON.parse then refuses it. */
export interface JsonOutline {
  readonly depth: number
  /** Keys of all objects together. */
  readonly keys: number
  /** The first key an object has twice (JSON.parse would keep the last and say nothing), or null. */
  readonly duplicateKey: string | null
}

export function outlineJson(text: string): JsonOutline {
  // One entry per open bracket: the keys an object has so far, or null for an array.
  const open: (Set<string> | null)[] = []
  let depth = 0
  let keys = 0
  let duplicateKey: string | null = null
  let atKey = false
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '{':
      case '[':
        atKey = text[at] === '{'
        open.push(atKey ? new Set() : null)
        depth = Math.max(depth, open.length)
        if (depth > MAX_JSON_DEPTH) return { depth, keys, duplicateKey }
        break
      case '}':
      case ']':
        open.pop()
        atKey = false
        break
      case ',':
        atKey = open.at(-1) instanceof Set
        break
      case '"': {
        const start = at
        for (at++; at < text.length && text[at] !== '"'; at++) if (text[at] === '\\') at++
        if (!atKey) break
        atKey = false
        keys++
        const seen = open.at(-1)
        const raw = text.slice(start, at + 1)
        // Escapes may spell one key two ways.
        const key = raw.includes('\\') ? unescapeKey(raw) : raw
        if (seen?.has(key)) duplicateKey ??= raw
        seen?.add(key)
        break
      }
    }
  }
  return { depth, keys, duplicateKey }
}

function unescapeKey(raw: string): string {
  try {
    return JSON.stringify(JSON.parse(raw))
  } catch {
    return raw
  }
}

/**
 * The object a JSON text holds.
 *
 * @throws {GorgonError} `code` when the text is too deep, malformed, or not an object.
 */
export function parseJsonObject(text: string, where: string, code: ErrorCode): Record<string, unknown> {
  const { depth } = outlineJson(text)
  if (depth > MAX_JSON_DEPTH) {
    throw new GorgonError(
      code,
      `${where}: JSON nested deeper than ${MAX_JSON_DEPTH} levels. This is not a valid file.`,
      {
        file: where,
        limit: MAX_JSON_DEPTH,
      },
    )
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new GorgonError(
      code,
      `${where}: not JSON (${reason}). Download or export the file again.`,
      { file: where },
      error,
    )
  }
  if (!isJsonObject(value)) {
    const found = Array.isArray(value) ? 'an array' : value === null ? 'null' : `a ${typeof value}`
    throw new GorgonError(code, `${where}: holds ${found} where a JSON object belongs.`, { file: where })
  }
  return value
}

/**
 * The object a JSON file holds, or null when there is no such file.
 *
 * @throws {GorgonError} ERR_FILE when it cannot be read; `code` when it is too large, malformed, or not an object.
 */
export async function readJsonObject(path: string, code: ErrorCode): Promise<Record<string, unknown> | null> {
  const text = await readText(path, MAX_JSON_BYTES, code)
  return text === null ? null : parseJsonObject(text, path, code)
}
