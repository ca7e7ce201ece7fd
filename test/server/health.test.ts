// What supervisors and balancers are told, from loading to draining.
import { expect, test } from 'vitest'
import type { Engine, LoadProgress } from '../../src/index.js'
import { runningServers } from '../support/server.js'
import { toyEngine } from '../support/toy-engine.js'

const startServer = runningServers()

async function get(url: string): Promise<{ status: number; body: unknown; headers: Headers }> {
  const response = await fetch(url)
  return { status: response.status, body: await response.json(), headers: response.headers }
}

test('a server with its model is live and ready, and says so to anybody, each time anew', async () => {
  const { url } = await startServer({ keys: ['a-key-of-the-server'] })
  expect(await get(`${url}/health/live`)).toMatchObject({ status: 200, body: { status: 'live' } })
  for (const path of ['/health/ready', '/health']) {
    const { status, body, headers } = await get(`${url}${path}`)
    expect({ status, body }).toEqual({ status: 200, body: { status: 'ready' } })
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.has('retry-after')).toBe(false)
  }
})

test('while its model loads it is live, says how far it is, and becomes ready', async () => {
  const { engine: loaded } = await startServer()
  let arrive!: (engine: Engine) => void
  let progress: LoadProgress | undefined
  const engine = new Promise<Engine>((resolve) => {
    arrive = resolve
  })
  const { url } = await startServer({ engine, loading: () => progress })
  expect(await get(`${url}/health/live`)).toMatchObject({ status: 200 })
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 503, body: { status: 'loading' } })
  progress = { phase: 'map', done: 3, total: 8 }
  const { status, body, headers } = await get(`${url}/health/ready`)
  expect({ status, body }).toEqual({ status: 503, body: { status: 'loading', phase: 'map', done: 3, total: 8 } })
  expect(headers.get('retry-after')).toBe('1')
  arrive(loaded)
  await engine
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 200, body: { status: 'ready' } })
})

test('with a model that did not load it is live and never ready, without saying what it saw', async () => {
  const engine = Promise.reject(new Error('/secret/path is not there'))
  const { url } = await startServer({ engine })
  const { status, body } = await get(`${url}/health/ready`)
  expect({ status, body }).toEqual({ status: 503, body: { status: 'failed' } })
  expect(await get(`${url}/health/live`)).toMatchObject({ status: 200 })
})

test('with an engine that was closed under it it is not ready', async () => {
  const { engine } = toyEngine()
  const { url } = await startServer({ engine })
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 200 })
  await engine.close()
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 503, body: { status: 'closed' } })
  expect(await get(`${url}/health/live`)).toMatchObject({ status: 200 })
})

test('from the moment it is told to stop it is not ready, while what runs goes on', async () => {
  const { server, url, engine } = await startServer()
  const principal = { id: 'test', maxPriority: 0 }
  const work = server.intake.start({
    principal,
    endpoint: 'stream',
    input: 'const x = ',
    options: { maxTokens: 15_000, ignoreEos: true },
  })
  const closed = server.close({ drainMs: 60_000 })
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 503, body: { status: 'draining' } })
  expect(await get(`${url}/health/live`)).toMatchObject({ status: 200 })
  expect(engine.stats().running + engine.stats().queued).toBe(1)
  work.abort()
  await closed
  await expect(fetch(`${url}/health/live`)).rejects.toThrow()
})

test('with a full queue it is ready all the same', async () => {
  const { server, url } = await startServer()
  const principal = { id: 'test', maxPriority: 0 }
  const request = {
    principal,
    endpoint: 'stream',
    input: 'x',
    options: { maxTokens: 15_000, ignoreEos: true },
  } as const
  const works = Array.from({ length: 40 }, () => server.intake.start(request))
  expect(server.intake.running).toBe(40)
  expect(await get(`${url}/health/ready`)).toMatchObject({ status: 200 })
  for (const work of works) work.abort()
  await Promise.all(works.map((work) => work.result))
})

test('paths beside these are not there', async () => {
  const { url } = await startServer()
  expect((await fetch(`${url}/health/elsewhere`)).status).toBe(404)
  expect((await fetch(`${url}/health/live`, { method: 'POST' })).status).toBe(405)
})
