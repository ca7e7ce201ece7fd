// gorgon serve as its own process: signals while it works, clients that vanish, and its exit codes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { metricOf } from '../support/metrics.js'
import { openaiOf } from '../support/openai.js'
import { endAll, startServe } from '../support/serve-process.js'
import { until } from '../support/server.js'

afterEach(endAll)

/** Long enough to be running when the signal comes, and done well within a drain. */
const LONG = { model: 'demo', prompt: 'const x = ', max_tokens: 800, ignore_eos: true, stream: true } as const

/** A stream that has begun, and how it ends. */
async function begun(
  url: string,
  request: typeof LONG | (Omit<typeof LONG, 'max_tokens'> & { max_tokens: number }) = LONG,
) {
  const stream = await openaiOf({ url }).completions.create(request)
  const chunks = stream[Symbol.asyncIterator]()
  await chunks.next()
  const finish = async (): Promise<string | null> => {
    let last: string | null = null
    for await (const { choices } of { [Symbol.asyncIterator]: () => chunks }) last = choices[0]?.finish_reason ?? last
    return last
  }
  return { finish: finish() }
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
    await expect(openaiOf({ url }).completions.create(LONG)).rejects.toMatchObject({
      status: 503,
      code: 'ERR_DRAINING',
    })
    for (const { finish } of streams) expect(await finish).toBe('length')
    expect(await server.exit).toEqual([0, null])
  })

  test('under load it cuts short what is not done when the drain is over, and ends well', async () => {
    const server = startServe(['--drain', '0.3'])
    const url = await server.url()
    await server.logged('ready')
    const streams = await Promise.all(Array.from({ length: 3 }, () => begun(url, { ...LONG, max_tokens: 16_000 })))
    const stopped = performance.now()
    server.child.kill('SIGTERM')
    // Each stream ends by saying that it is not whole.
    const ends = streams.map(({ finish }) => expect(finish).rejects.toMatchObject({ code: 'ERR_DRAINING' }))
    await Promise.all(ends)
    expect(await server.exit).toEqual([0, null])
    expect(performance.now() - stopped).toBeLessThan(20_000)
  })

  test('twice it ends at once, with the signal’s exit code', async () => {
    const server = startServe(['--drain', '600'])
    const url = await server.url()
    await server.logged('ready')
    const { finish } = await begun(url, { ...LONG, max_tokens: 16_000 })
    const isBroken = expect(finish).rejects.toThrow()
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
  const body = JSON.stringify({ ...LONG, max_tokens: 16_000 })
  const program = `
    const response = await fetch('${url}/v1/completions', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '${body}' })
    for await (const part of response.body) process.stdout.write(part)
  `
  const client = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(client.stdout, 'data')
  expect(await metricOf(url, 'gorgon_running{model="demo"}')).toBe(1)
  client.kill('SIGKILL')
  await until(async () => (await metricOf(url, 'gorgon_running{model="demo"}')) === 0)
  expect(await metricOf(url, 'gorgon_kv_bytes{model="demo"}')).toBe(0)
  const aborted = 'gorgon_requests_total{endpoint="completions",model="demo",finish="aborted"}'
  await until(async () => (await metricOf(url, aborted)) === 1)
  // And the server goes on.
  expect(await (await begun(url, { ...LONG, max_tokens: 20 })).finish).toBe('length')
})

test('a model that does not load ends it with the error', async () => {
  const server = startServe(['--model', '/nowhere/model'])
  expect(await server.exit).toEqual([2, null])
  expect(server.lines.at(-1)).toMatch(/^gorgon: ERR_MODEL_NOT_FOUND: /)
})
