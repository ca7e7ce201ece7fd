// What clients do to a server, by accident or on purpose, and what must be true of it afterwards.
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { Choices } from '../quality/random.js'
import { BadFrames } from './bad-frames.js'
import { CountingClient, tallyOf } from './counting-client.js'
import { forkProgram } from './fork-program.js'
import type { Marks } from './marks.js'
import { metricOf } from './metrics-text.js'

/** A server that can be looked into. */
export interface Target {
  /** `http://127.0.0.1:8080` */
  readonly url: string
  marks(): Promise<Marks>
}

/** What the clients of a fault saw. */
export interface Seen {
  /** Generations that the server began, or refused after it had read them; null where nobody can know. */
  readonly requests: number | null
  /** How they ended for those who asked, and what else was answered, counted by code. */
  readonly ends: Readonly<Record<string, number>>
}

/** What is found when it is over. */
export interface Finding extends Seen {
  /** As many as the server's metrics have seen end. */
  readonly ended: number
  /** From when the clients were done until the server held nothing of theirs. */
  readonly restMs: number
  /** Of JavaScript's heap, from before to after; with garbage, unless the target collects it. */
  readonly heapGrowthBytes: number
  readonly coalesced: number
  readonly parked: number
  readonly slowCloses: number
}

/** Never long enough to end by itself while somebody looks. */
const LONG = { maxTokens: 8000, ignoreEos: true, kv: { policy: 'full' } } as const
const PROMPT = 'export function '
const PROBE = { maxTokens: 24, ignoreEos: true } as const

/** Does the fault, waits until the server is at rest, and holds both sides' counts together. @throws when they differ, or it is never at rest. */
export async function inflict(
  target: Target,
  fault: (url: string) => Promise<Seen>,
  restMs = 60_000,
): Promise<Finding> {
  await atRest(target, restMs)
  const expected = await probe(target.url)
  await atRest(target, restMs)
  const before = await countsOf(target)
  const seen = await fault(target.url)
  const over = performance.now()
  await atRest(target, restMs, before.files)
  const rest = performance.now() - over
  const after = await countsOf(target)
  const ended = after.ended - before.ended
  const wrong = [
    seen.ends['never'] && `${seen.ends['never']} requests never ended`,
    seen.ends['twice'] && `${seen.ends['twice']} requests ended twice`,
    seen.requests !== null &&
      ended !== seen.requests &&
      `clients began ${seen.requests} requests, the server ended ${ended}`,
    (await probe(target.url)) !== expected && 'the server gives other tokens than before',
  ].filter((what) => typeof what === 'string')
  if (wrong.length > 0) throw new Error(`${wrong.join('; ')}: ${JSON.stringify(seen)}`)
  return {
    ...seen,
    ended,
    restMs: rest,
    heapGrowthBytes: after.heapBytes - before.heapBytes,
    coalesced: after.coalesced - before.coalesced,
    parked: after.parked - before.parked,
    slowCloses: after.slowCloses - before.slowCloses,
  }
}

/** Tokens of a request that a server that lives can answer, as text. */
async function probe(url: string): Promise<string> {
  const client = await CountingClient.connect(url)
  client.generate('probe', PROMPT, PROBE)
  await client.until(() => client.running === 0)
  const [ends, tokens] = [client.ends.get('probe'), client.tokensOf('probe')]
  await client.close()
  if (ends?.join() !== 'length') throw new Error(`a plain request ended with ${ends?.join() || client.closeCode}`)
  return tokens.join()
}

interface Counts {
  readonly ended: number
  readonly held: number
  readonly coalesced: number
  readonly parked: number
  readonly slowCloses: number
  readonly files: number | null
  readonly heapBytes: number
}

async function countsOf(target: Target): Promise<Counts> {
  const text = await metricsOf(target.url)
  const { engine, files, heapBytes } = await target.marks()
  return {
    ended: metricOf(text, 'gorgon_requests_total') + metricOf(text, 'gorgon_request_failures_total'),
    held:
      engine.running +
      engine.queued +
      engine.sessions +
      metricOf(text, 'gorgon_sockets') +
      metricOf(text, 'gorgon_socket_buffered_bytes') +
      metricOf(text, 'gorgon_detached'),
    coalesced: metricOf(text, 'gorgon_socket_coalesced_frames_total'),
    parked: metricOf(text, 'gorgon_socket_parked_responses_total'),
    slowCloses: metricOf(text, 'gorgon_socket_slow_closes_total'),
    files,
    heapBytes,
  }
}

/** Nothing runs, waits, is open or held, and no more files are open than there were. */
async function atRest(target: Target, withinMs: number, filesBefore: number | null = null): Promise<void> {
  const deadline = performance.now() + withinMs
  for (;;) {
    const { held, files } = await countsOf(target)
    if (held === 0 && (filesBefore === null || files === null || files <= filesBefore)) return
    if (performance.now() > deadline) {
      throw new Error(`not at rest after ${withinMs} ms: ${held} held, ${files} files open, ${filesBefore} before`)
    }
    await new Promise((wake) => setTimeout(wake, 10))
  }
}

const connectAll = (url: string, count: number): Promise<CountingClient[]> =>
  Promise.all(Array.from({ length: count }, () => CountingClient.connect(url)))

/** Processes with streams that run are killed as no process can prepare for. */
export function killedClients({ processes, streams }: { readonly processes: number; readonly streams: number }) {
  return async (url: string): Promise<Seen> => {
    const killed = Array.from({ length: processes }, async () => {
      const victim = forkProgram('victim', [url, String(streams)])
      const gone = once(victim, 'exit')
      // Its only message: every stream has brought something.
      await Promise.race([
        once(victim, 'message'),
        gone.then(() => Promise.reject(new Error('a victim ended by itself'))),
      ])
      victim.kill('SIGKILL')
      await gone
    })
    await Promise.all(killed)
    return { requests: processes * streams, ends: { killed: processes * streams } }
  }
}

/** Sockets on which nothing is read any more and no ping answered, as when a machine is gone without a word. */
export function halfOpenSockets({ sockets }: { readonly sockets: number }) {
  return async (url: string): Promise<Seen> => {
    const clients = await connectAll(url, sockets)
    for (const client of clients) {
      client.generate('a', PROMPT, LONG)
      await client.until(() => client.tokensOf('a').length > 0)
      client.socket.pause()
    }
    await untilCounted(url, (text) => metricOf(text, 'gorgon_sockets') === 0)
    for (const client of clients) client.socket.terminate()
    await Promise.all(clients.map((client) => client.closed()))
    return { requests: sockets, ends: tallyOf(clients) }
  }
}

/** Clients that ask for more than they read: what is buffered for them grows until the server has had enough. */
export function stalledReaders({ sockets, streams }: { readonly sockets: number; readonly streams: number }) {
  return async (url: string): Promise<Seen> => {
    const clients = await connectAll(url, sockets)
    for (const client of clients) {
      for (let stream = 0; stream < streams; stream++) client.generate(`s${stream}`, PROMPT, { ...LONG, logprobs: 20 })
      await client.until(() => client.frames > streams)
      client.socket.pause()
    }
    // Who reads again soon enough still learns why.
    await untilCounted(url, (text) => metricOf(text, 'gorgon_socket_slow_closes_total') >= sockets)
    for (const client of clients) client.socket.resume()
    await Promise.all(clients.map((client) => client.closed()))
    return { requests: sockets * streams, ends: tallyOf(clients) }
  }
}

/** Clients that read slower than is written to them, and get everything all the same. */
export function slowReaders({ sockets, streams, tokens, bytesPerSecond }: Readonly<Record<SlowReader, number>>) {
  return async (url: string): Promise<Seen> => {
    const clients = await connectAll(url, sockets)
    const names = Array.from({ length: streams }, (_, i) => `s${i}`)
    await Promise.all(
      clients.map(async (client) => {
        const stop = client.readAt(bytesPerSecond)
        for (const name of names) client.generate(name, PROMPT, { ...LONG, maxTokens: tokens, logprobs: 20 })
        await client.until(() => client.running === 0)
        stop()
        const missing = names.filter((name) => client.tokensOf(name).length !== tokens)
        if (missing.length > 0) throw new Error(`${missing.join()} not whole, closed with ${client.closeCode}`)
        await client.close()
      }),
    )
    return { requests: sockets * streams, ends: tallyOf(clients) }
  }
}

type SlowReader = 'sockets' | 'streams' | 'tokens' | 'bytesPerSecond'

/**
 * Floods of frames that are no frames, or ask for what there is not: in bursts, each on a connection of its own, for most cost it. What they
 * happen to ask for rightly begins requests that nobody has counted.
 */
export function badFrames({ sockets, frames, burst }: Readonly<Record<'sockets' | 'frames' | 'burst', number>>) {
  return async (url: string): Promise<Seen> => {
    const ends: Record<string, number> = {}
    let sent = 0
    const flood = async (name: string): Promise<void> => {
      const bad = new BadFrames(name)
      while (sent < frames) {
        const client = await CountingClient.connect(url)
        for (let i = 0; i < burst; i++) client.sendBad(bad.next())
        sent += burst
        await client.answered()
        const end = client.closeCode === null ? 'survived' : `closed ${client.closeCode}`
        ends[end] = (ends[end] ?? 0) + 1
        await client.close()
      }
    }
    await Promise.all(Array.from({ length: sockets }, (_, i) => flood(`bad frames ${i}`)))
    return { requests: null, ends }
  }
}

/** A second request under an id that runs. */
export function duplicateIds({ sockets }: { readonly sockets: number }) {
  return async (url: string): Promise<Seen> => {
    const clients = await connectAll(url, sockets)
    for (const client of clients) {
      client.generate('same', PROMPT, LONG)
      client.generate('same', PROMPT, LONG)
    }
    await Promise.all(clients.map((client) => client.closed()))
    return { requests: sockets, ends: tallyOf(clients) }
  }
}

/** Requests cancelled at any moment: before they begin, in the queue, while they run, when they are over; and more than once. */
export function cancelStorm({
  sockets,
  rounds,
  each,
}: {
  readonly sockets: number
  readonly rounds: number
  readonly each: number
}) {
  return async (url: string): Promise<Seen> => {
    const choices = new Choices('cancel storm')
    const clients = await connectAll(url, sockets)
    const storm = async (client: CountingClient): Promise<void> => {
      for (let round = 0; round < rounds; round++) {
        const ids = Array.from({ length: each }, (_, i) => `r${round}-${i}`)
        for (const id of ids) client.generate(id, PROMPT, { ...LONG, maxTokens: choices.integer(1, 200) })
        for (const id of choices.shuffle([...ids, ...ids, 'never-was'])) {
          const until = client.frames + choices.integer(0, 6)
          await client.until(() => client.frames >= until || client.running === 0)
          client.send({ type: 'cancel', id })
        }
        await client.until(() => client.running === 0)
      }
    }
    await Promise.all(clients.map(storm))
    await Promise.all(clients.map((client) => client.close()))
    return { requests: sockets * rounds * each, ends: tallyOf(clients) }
  }
}

/** More requests at once than may run and wait; those that got in are cancelled when all know where they are. */
export function fullQueue({ sockets, each }: { readonly sockets: number; readonly each: number }) {
  return async (url: string): Promise<Seen> => {
    const clients = await connectAll(url, sockets)
    for (let i = 0; i < each; i++) for (const client of clients) client.generate(`q${i}`, PROMPT, LONG)
    // An answer to a ping comes after what was said about the requests before it.
    await Promise.all(clients.map((client) => client.answered()))
    for (const client of clients) for (const id of client.ends.keys()) client.send({ type: 'cancel', id })
    await Promise.all(clients.map((client) => client.until(() => client.running === 0)))
    await Promise.all(clients.map((client) => client.close()))
    return { requests: sockets * each, ends: tallyOf(clients) }
  }
}

/** Bodies and messages beyond every limit, announced and not. Nothing of them becomes a request. */
export function oversize({ times, bytes }: { readonly times: number; readonly bytes: number }) {
  return async (url: string): Promise<Seen> => {
    const ends: Record<string, number> = {}
    const count = (end: string): void => {
      ends[end] = (ends[end] ?? 0) + 1
    }
    for (let time = 0; time < times; time++) {
      count(`announced ${await postTooMuch(url, bytes, true)}`)
      count(`chunked ${await postTooMuch(url, bytes, false)}`)
      const client = await CountingClient.connect(url)
      client.generate('big', 'x'.repeat(bytes))
      count(`message ${await client.closed()}`)
    }
    return { requests: 0, ends }
  }
}

/** @returns the status, or how the connection ended without one. */
function postTooMuch(url: string, bytes: number, isAnnounced: boolean): Promise<string> {
  const headers = { 'content-type': 'application/json', ...(isAnnounced && { 'content-length': bytes }) }
  return new Promise((resolve) => {
    const request = httpRequest(`${url}/v1/completions`, { method: 'POST', headers, agent: false })
    const part = Buffer.alloc(64 * 1024, 'x')
    let left = bytes
    const write = (): void => {
      while (left > 0 && !request.destroyed) {
        left -= part.length
        if (!request.write(part.subarray(0, Math.min(part.length, left + part.length)))) return
      }
      if (!request.destroyed) request.end()
    }
    request.on('drain', write)
    request.on('response', (response) => {
      resolve(String(response.statusCode))
      response.resume()
      request.destroy()
    })
    request.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    write()
  })
}

/** Looks at the server's metrics until this holds of them. */
async function untilCounted(url: string, holds: (text: string) => boolean): Promise<void> {
  for (let look = 0; look < 6000; look++) {
    if (holds(await metricsOf(url))) return
    await new Promise((wake) => setTimeout(wake, 10))
  }
  throw new Error('the server keeps sockets that nobody reads')
}

/** A connection for each look, so that none is left open. */
const metricsOf = async (url: string): Promise<string> =>
  (await fetch(`${url}/metrics`, { headers: { connection: 'close' } })).text()
