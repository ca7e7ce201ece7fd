// gorgon serve as its own process: signals while it works, clients that vanish, and its exit codes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { endAll, startServe } from '../support/serve-process.js'

afterEach(endAll)

/** Long enough to be running when the signal comes, and done well within a drain. */
const LONG = { prompt: 'const x = ', max_tokens: 800, ignore_eos: true, stream: true }

function post(url: string, body: object): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'demo', ...body }),
  })
}

/** The events of a stream: their data, in order. */
async function* eventsOf(response: Response): AsyncGenerator<string, void> {
  let rest = ''
  for await (const bytes of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (rest + bytes).split('\n\n')
    rest = events.pop()!
    for (const event of events) if (event.startsWith('data: ')) yield event.slice('data: '.length)
  }
}

/** A stream that has begun, and the rest of it. */
async function begun(url: string, body: object = LONG): Promise<{ rest: Promise<string[]> }> {
  const response = await post(url, body)
  expect(response.status).toBe(200)
  const events = eventsOf(response)
  const { value } = await events.next()
  const rest = async (): Promise<string[]> => {
    const all = [value!]
    for await (const event of events) all.push(event)
    return all
  }
  return { rest: rest() }
}

const finishOf = (events: readonly string[]): unknown =>
  events
    .filter((event) => event !== '[DONE]')
    .flatMap((event) => (JSON.parse(event) as { choices: { finish_reason: string | null }[] }).choices)
    .find((choice) => choice.finish_reason !== null)?.finish_reason

/** A gauge or counter of `/metrics`. */
async function metric(url: string, series: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const line = text.split('\n').find((one) => one.startsWith(`${series} `))
  return line === undefined ? Number.NaN : Number(line.slice(series.length + 1))
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 60_000
  while (!(await holds())) if (performance.now() > end) throw new Error(`waited in vain for ${holds}`)
}

test('it listens before the model is there, and says when it is', async () => {
  const server = startServe()
  const url = await server.url()
  const early = await (await fetch(`${url}/health/live`)).json()
  expect(early).toEqual({ status: 'live' })
  await server.logged('ready')
  expect(await (await fetch(`${url}/health/ready`)).json()).toEqual({ status: 'ready' })
})

describe('stopped', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('by %s without work it ends at once, and well', async (signal) => {
    const server = startServe()
    await server.logged('ready')
    server.child.kill(signal)
    expect(await server.exit).toEqual([0, null])
    expect(server.lines.map((line) => (typeof line === 'object' ? line.msg : line))).toEqual([
      'listening',
      'ready',
      'draining',
      'closed',
    ])
  })

  test('while it loads it ends at once, and well', async () => {
    const server = startServe()
    await server.logged('listening')
    server.child.kill('SIGTERM')
    expect(await server.exit).toEqual([0, null])
  })

  test('under load it takes nothing new, ends the streams it has, and ends well', async () => {
    const server = startServe(['--drain', '60'])
    const url = await server.url()
    await server.logged('ready')
    const streams = await Promise.all(Array.from({ length: 6 }, () => begun(url)))
    server.child.kill('SIGTERM')
    await server.logged('draining')
    expect((await fetch(`${url}/health/ready`)).status).toBe(503)
    const refused = await post(url, LONG)
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).not.toBeNull()
    expect(await refused.json()).toMatchObject({ error: { code: 'ERR_DRAINING' } })
    for (const { rest } of streams) {
      const events = await rest
      expect(finishOf(events)).toBe('length')
      expect(events.at(-1)).toBe('[DONE]')
    }
    expect(await server.exit).toEqual([0, null])
  })

  test('under load it cuts short what is not done when the drain is over, and ends well', async () => {
    const server = startServe(['--drain', '0.3'])
    const url = await server.url()
    await server.logged('ready')
    const streams = await Promise.all(Array.from({ length: 3 }, () => begun(url, { ...LONG, max_tokens: 16_000 })))
    const stopped = performance.now()
    server.child.kill('SIGTERM')
    // Each stream ends, with fewer tokens than it asked for.
    for (const { rest } of streams) expect(finishOf(await rest)).not.toBe('stop')
    expect(await server.exit).toEqual([0, null])
    expect(performance.now() - stopped).toBeLessThan(20_000)
  })

  test('twice it ends at once, with the signal’s exit code', async () => {
    const server = startServe(['--drain', '600'])
    const url = await server.url()
    await server.logged('ready')
    const { rest } = await begun(url, { ...LONG, max_tokens: 16_000 })
    const isBroken = expect(rest).rejects.toThrow()
    server.child.kill('SIGTERM')
    await server.logged('draining')
    server.child.kill('SIGTERM')
    expect(await server.exit).toEqual([143, null])
    await isBroken
  })
})

test('a client that is killed leaves nothing behind', async () => {
  const server = startServe()
  const url = await server.url()
  await server.logged('ready')
  const body = JSON.stringify({ model: 'demo', ...LONG, max_tokens: 16_000 })
  const program = `
    const response = await fetch('${url}/v1/completions', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '${body}' })
    for await (const part of response.body) process.stdout.write(part)
  `
  const client = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(client.stdout, 'data')
  expect(await metric(url, 'gorgon_running{model="demo"}')).toBe(1)
  client.kill('SIGKILL')
  await until(async () => (await metric(url, 'gorgon_running{model="demo"}')) === 0)
  expect(await metric(url, 'gorgon_kv_bytes{model="demo"}')).toBe(0)
  const aborted = 'gorgon_requests_total{endpoint="completions",model="demo",finish="aborted"}'
  await until(async () => (await metric(url, aborted)) === 1)
  // And the server goes on.
  const { rest } = await begun(url, { ...LONG, max_tokens: 20 })
  expect(finishOf(await rest)).toBe('length')
})

test('a model that does not load ends it with the error', async () => {
  const server = startServe(['--model', '/nowhere/model'])
  expect(await server.exit).toEqual([2, null])
  expect(server.lines.at(-1)).toMatch(/^gorgon: ERR_MODEL_NOT_FOUND: /)
})
