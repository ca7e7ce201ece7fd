// PROTOCOL.md holds what it says: its tables are the protocol's, and its conversations are run against a real server.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { z } from 'zod'
import { CloseCode } from '../../src/server/close-codes.js'
import { ClientFrame, ServerFrame } from '../../src/server/index.js'
import { LADDER } from '../../src/server/outbox.js'
import { NativePeer } from '../support/native-peer.js'
import { type RunningServer, runningServers } from '../support/server.js'

const document = readFileSync(new URL('../../src/server/PROTOCOL.md', import.meta.url), 'utf8')
// The same trees at every step: which tokens come together does not depend on this machine.
const startServer = runningServers({ speculation: { mode: 'medusa' } })

const section = (title: string): string => document.split(`\n${title}\n`)[1]!.split(/\n##/)[0]!
const rows = (text: string): string[][] =>
  Array.from(text.matchAll(/^\| (.*) \|$/gm), ([, row]) => row!.split(' | '))
    .filter(([first]) => !/^-+$/.test(first!))
    .slice(1)

describe('tables', () => {
  const types = (schema: { readonly options: readonly z.ZodObject[] }) =>
    schema.options.map(({ shape }) => `\`${(shape['type'] as unknown as z.ZodLiteral<string>).value}\``)

  test.each([
    ['### From the client', types(ClientFrame as never)],
    ['### From the server', types(ServerFrame as never)],
  ])('%s has every frame', (title, expected) => {
    expect(
      rows(section(title))
        .map(([frame]) => frame!)
        .sort(),
    ).toEqual([...expected].sort())
  })

  test('of close codes has every one', () => {
    const named = rows(section('## Close codes')).map(([code, name]) => [name!.replaceAll('`', ''), Number(code)])
    expect(Object.fromEntries(named)).toEqual(CloseCode)
  })

  test('of back-pressure has the numbers of the ladder', () => {
    const { coalesceBytes, parkBytes, resumeBytes } = LADDER
    const kib = rows(section('## Back-pressure')).map(([bytes]) => Number(/(\d+) KiB/.exec(bytes!)![1]) * 1024)
    expect(kib).toEqual([coalesceBytes, parkBytes, resumeBytes])
  })
})

/** A line of a conversation. */
type Line =
  | { readonly who: 'C'; readonly frame: unknown }
  | { readonly who: 'S'; readonly pattern: unknown; readonly times: '' | '+' | '*'; readonly until: number }
  | { readonly who: 'close'; readonly code: number }
  | { readonly who: '--'; readonly what: string }

/** `…` is any value, or as a field all others; `<name>` is a value that is the same wherever it is named. */
const ANY = '…'
const REST = '…rest'

function lineOf(text: string): Line {
  const [, who, times = '', said = ''] = /^(C|S|--)([+*]?):? (.*)$/.exec(text)!
  if (who === '--') return { who, what: said }
  const close = /^close (\d+)$/.exec(said)
  if (close) return { who: 'close', code: Number(close[1]) }
  const [, json, until] = /^(.*?)(?: until (\d+))?$/.exec(said)!
  const frame: unknown = JSON.parse(
    json!
      .replace(/,…}/g, `,"${REST}":0}`)
      .replace(/:…/g, `:"${ANY}"`)
      .replace(/:<(\w+)>/g, ':"<$1>"'),
  )
  if (who === 'C') return { who, frame }
  return { who: 'S', pattern: frame, times: times as '' | '+' | '*', until: Number(until ?? 0) }
}

type Names = Map<string, unknown>

/** A pattern matches; values that it names are put into `names`. */
function matches(pattern: unknown, value: unknown, names: Names): boolean {
  if (pattern === ANY) return true
  if (typeof pattern === 'string' && /^<\w+>$/.test(pattern)) {
    names.set(pattern, value)
    return true
  }
  if (Array.isArray(pattern)) {
    return (
      Array.isArray(value) &&
      pattern.length === value.length &&
      pattern.every((item, i) => matches(item, value[i], names))
    )
  }
  if (typeof pattern !== 'object' || pattern === null) return pattern === value
  if (typeof value !== 'object' || value === null) return false
  const fields = new Map(Object.entries(value))
  for (const [key, expected] of Object.entries(pattern)) {
    if (key === REST) continue
    if (!fields.has(key) || !matches(expected, fields.get(key), names)) return false
    fields.delete(key)
  }
  return fields.size === 0 || REST in pattern
}

const withNames = (frame: unknown, names: Names): never =>
  JSON.parse(JSON.stringify(frame), (_, value) => (names.has(value) ? names.get(value) : value)) as never

/** Plays a conversation with a server; whatever differs from what is written fails. */
async function converse(lines: readonly Line[], running: RunningServer): Promise<void> {
  const { port, close } = running
  const names: Names = new Map()
  let peer = await NativePeer.connect(port)
  let next = 0
  /** Whether the next frame matches; null when the connection is closed instead. */
  const nextMatches = async (pattern: unknown): Promise<boolean | null> => {
    await peer.until(() => peer.frames.length > next || peer.closed !== null)
    const frame = peer.frames[next]
    return frame === undefined ? null : matches(pattern, frame, names)
  }
  for (const line of lines) {
    if (line.who === 'C') peer.say(withNames(line.frame, names))
    else if (line.who === 'close') expect(await peer.closing()).toMatchObject({ code: line.code })
    else if (line.who === 'S') {
      let count = 0
      while ((line.until === 0 || count < line.until) && (line.times !== '' || count === 0)) {
        if ((await nextMatches(line.pattern)) !== true) break
        next++
        count++
      }
      const isEnough = line.times === '*' || count >= Math.max(1, line.until)
      expect(isEnough, `${JSON.stringify(line)} was expected, and not ${JSON.stringify(peer.frames[next])}`).toBe(true)
    } else if (line.what === 'the connection breaks') {
      peer.cut()
      await peer.closing()
    } else if (line.what === 'the client connects again') {
      peer = await NativePeer.connect(port)
      next = 0
    } else if (line.what === 'the server stops') void close({ drainMs: 60_000 })
    else expect.unreachable(`"${line.what}" is nothing that happens`)
  }
  const isStopped = peer.closed !== null
  if (!isStopped) {
    // Nothing came that is not written.
    peer.say({ type: 'finish' })
    await peer.closing()
  }
  expect(peer.frames.slice(next)).toEqual([])
}

describe('conversations', () => {
  const found = Array.from(document.matchAll(/^## ([^\n]*)$|^```conversation\n(.*?)^```$/gms))
  const titled: { title: string; lines: Line[] }[] = []
  let title = ''
  for (const [, heading, text] of found) {
    if (heading !== undefined) title = heading
    else titled.push({ title, lines: text!.trim().split('\n').map(lineOf) })
  }

  test('are there', () => {
    expect(new Set(titled.map((conversation) => conversation.title))).toEqual(
      new Set(['A response', 'Cancel', 'Credit', 'Sessions', 'Resume', 'Draining']),
    )
  })

  test.each(titled)('$title', async ({ lines }) => {
    await converse(lines, await startServer())
  })
})
