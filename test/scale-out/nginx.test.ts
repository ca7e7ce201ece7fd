// docs/scale-out/nginx.conf before real replicas: what it shares with HAProxy.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Balancer, startNginx, whyNot } from '../support/balancer.js'
import { metricOf } from '../support/metrics.js'
import { openaiOf } from '../support/openai.js'
import { endAll, type ServeProcess, startServe } from '../support/serve-process.js'
import { runningServers, until } from '../support/server.js'

const reason = whyNot('nginx')

const REQUEST = { model: 'demo', prompt: 'export function add(', max_tokens: 24, temperature: 0.8, seed: 7 } as const
const STREAM = { ...REQUEST, max_tokens: 600, ignore_eos: true, stream: true } as const
const DONE = 'gorgon_requests_total{endpoint="completions",model="demo",finish="length"}'

describe.skipIf(reason)(`nginx${reason ? `: ${reason}` : ''}`, () => {
  const startServer = runningServers()
  let servings: [ServeProcess, ServeProcess]
  let urls: [string, string]
  let balancer: Balancer

  const answered = async (index: 0 | 1): Promise<number> => (await metricOf(urls[index], DONE)) || 0

  beforeAll(async () => {
    const flags = ['--proxy', '127.0.0.1']
    servings = [startServe(flags), startServe(flags)]
    urls = [await servings[0].url(), await servings[1].url()]
    await Promise.all(servings.map((serving) => serving.logged('ready')))
    balancer = await startNginx(urls)
  })
  afterAll(async () => {
    await balancer.stop()
    await endAll()
  })

  test('requests go to all replicas, those of one name to one', async () => {
    const client = openaiOf(balancer)
    const answers = await Promise.all(Array.from({ length: 16 }, () => client.completions.create(REQUEST)))
    expect(new Set(answers.map(({ choices }) => choices[0]!.text)).size).toBe(1)
    const shares = [await answered(0), await answered(1)]
    expect(shares[0]! + shares[1]!).toBe(16)
    expect(Math.min(...shares)).toBeGreaterThan(0)

    const named = openaiOf(balancer, { defaultQuery: { affinity: 'client-1' } })
    for (let i = 0; i < 5; i++) await named.completions.create(REQUEST)
    expect([(await answered(0)) - shares[0]!, (await answered(1)) - shares[1]!].toSorted()).toEqual([0, 5])
  })

  test('tokens are sent on as they come', async () => {
    const stream = await openaiOf(balancer).completions.create({ ...STREAM, max_tokens: 4000 })
    for await (const _ of stream) break
    // The first has arrived while the rest is being made; leaving then ends it.
    await until(async () => (await metricOf(urls[0], 'gorgon_running{model="demo"}')) === 0)
    await until(async () => (await metricOf(urls[1], 'gorgon_running{model="demo"}')) === 0)
    const cut = 'gorgon_requests_total{endpoint="completions",model="demo",finish="aborted"}'
    const aborted = await Promise.all(urls.map((url) => metricOf(url, cut)))
    expect(aborted.filter((count) => count === 1)).toHaveLength(1)
  })

  test('metrics are not passed on', async () => {
    expect((await fetch(`${balancer.url}/metrics`)).status).toBe(404)
  })

  test('what one client has too much of is refused to it alone: the replicas go on for all others', async () => {
    const limits = { perKey: { requestsPerMinute: 1 } }
    const limited = () => startServer({ proxies: ['127.0.0.1'], limits })
    const own = await startNginx([(await limited()).url, (await limited()).url])
    const statusFor = async (address: string): Promise<number> => {
      const response = await fetch(`${own.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-forwarded-for': address },
        body: JSON.stringify(REQUEST),
      })
      await response.arrayBuffer()
      return response.status
    }
    const statusesFor = (addresses: readonly string[]) => Promise.all(addresses.map(statusFor))
    try {
      const greedy = await statusesFor(Array.from({ length: 8 }, () => '192.0.2.1'))
      expect(greedy).toContain(429)
      const others = Array.from({ length: 12 }, (_, i) => `198.51.100.${i + 1}`)
      expect(await statusesFor(others)).toEqual(others.map(() => 200))
      // It had one of each replica at most.
      expect(greedy.filter((status) => status !== 429).every((status) => status === 200)).toBe(true)
      expect(greedy.filter((status) => status === 200).length).toBeLessThanOrEqual(2)
    } finally {
      await own.stop()
    }
  })

  test('what a draining replica refuses, and a dead one cannot take, the other does', async () => {
    const client = openaiOf(balancer)
    // Holds the replica in its drain.
    const held = await openaiOf({ url: urls[0] }).completions.create({ ...STREAM, max_tokens: 8000 })
    const chunks = held[Symbol.asyncIterator]()
    await chunks.next()
    servings[0].child.kill('SIGTERM')
    await servings[0].logged('draining')
    const before = await answered(1)
    for (let i = 0; i < 6; i++) await client.completions.create(REQUEST)
    expect(await answered(1)).toBe(before + 6)
    servings[0].child.kill('SIGKILL')
    await servings[0].exit
    for (let i = 0; i < 6; i++) await client.completions.create(REQUEST)
    expect(await answered(1)).toBe(before + 12)
  })
})
