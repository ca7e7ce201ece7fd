// docs/scale-out/haproxy.cfg before real replicas: who gets what, while they load, drain, restart and die.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { type Client, connect } from '../../src/client/node.js'
import type { Engine } from '../../src/index.js'
import { type Balancer, startHaproxy, whyNot } from '../support/balancer.js'
import { metricOf } from '../support/metrics.js'
import { openaiOf } from '../support/openai.js'
import { endAll, type ServeProcess, startServe } from '../support/serve-process.js'
import { runningServers, until } from '../support/server.js'

const reason = whyNot('haproxy')

const FLAGS = ['--proxy', '127.0.0.1', '--drain', '60', '--log-level', 'info']
const PROMPT = 'export function add('
/** Sampled, with a seed: each replica gives the same text. */
const OPTIONS = { maxTokens: 600, ignoreEos: true, temperature: 0.8, seed: 7 }
/** The same as OpenAI's API has it, short and whole, or long and streamed. */
const REQUEST = { model: 'demo', prompt: PROMPT, max_tokens: 24, temperature: 0.8, seed: 7 } as const
const STREAM = { ...REQUEST, max_tokens: 600, ignore_eos: true, stream: true } as const
const DONE = 'gorgon_requests_total{endpoint="completions",model="demo",finish="length"}'

interface Replica {
  readonly url: string
  readonly serving: ServeProcess
}

async function startReplica(port = 0): Promise<Replica> {
  const serving = startServe([...FLAGS, '--port', String(port)])
  const url = await serving.url()
  await serving.logged('ready')
  return { url, serving }
}

/** Requests that a replica has answered; a series begins with its first. */
const answered = async ({ url }: Pick<Replica, 'url'>): Promise<number> => (await metricOf(url, DONE)) || 0

async function textOf(
  stream: AsyncIterable<{ readonly choices: readonly { readonly text: string }[] }>,
): Promise<string> {
  let text = ''
  for await (const { choices } of stream) text += choices[0]?.text ?? ''
  return text
}

describe.skipIf(reason)(`HAProxy${reason ? `: ${reason}` : ''}`, () => {
  const startServer = runningServers()
  let replicas: [Replica, Replica]
  let balancer: Balancer
  let expected: string
  let expectedStream: string

  const isUp = (server: 'a' | 'b') => async () => (await balancer.stateOf(server)).startsWith('UP')
  const isDown = (server: 'a' | 'b') => async () => (await balancer.stateOf(server)).startsWith('DOWN')

  async function balance(urls: readonly [string, string]): Promise<void> {
    balancer = await startHaproxy(urls)
  }

  beforeAll(async () => {
    replicas = await Promise.all([startReplica(), startReplica()])
    // What the library gives.
    const { engine } = await startServer()
    expectedStream = (await engine.generate(PROMPT, OPTIONS)).text
    expected = (await engine.generate(PROMPT, { ...OPTIONS, ignoreEos: false, maxTokens: 24 })).text
  })
  beforeEach(async () => {
    for (const index of [0, 1] as const) if (replicas[index].serving.isOver) await restart(index)
  })
  afterEach(() => balancer.stop())
  afterAll(endAll)

  /** Puts a replica that has ended back where it was. */
  async function restart(index: 0 | 1): Promise<void> {
    replicas[index] = await startReplica(Number(new URL(replicas[index].url).port))
  }

  /** Stops and starts one replica after the other, each time until `count` has gone on by so many. */
  async function restartInTurn(count: () => number, more: number): Promise<void> {
    for (const index of [0, 1] as const) {
      const { serving } = replicas[index]
      serving.child.kill('SIGTERM')
      expect(await serving.exit).toEqual([0, null])
      await restart(index)
      await until(isUp(index === 0 ? 'a' : 'b'))
      const before = count()
      await until(() => count() >= before + more)
    }
  }

  test('requests go to all replicas, and each is answered as by one', async () => {
    await balance([replicas[0].url, replicas[1].url])
    const before = await Promise.all(replicas.map(answered))
    const client = openaiOf(balancer)
    const answers = await Promise.all(Array.from({ length: 16 }, () => client.completions.create(REQUEST)))
    expect(answers.map(({ choices }) => choices[0]!.text)).toEqual(Array.from({ length: 16 }, () => expected))
    const after = await Promise.all(replicas.map(answered))
    const shares = after.map((count, i) => count - before[i]!)
    expect(shares[0]! + shares[1]!).toBe(16)
    expect(Math.min(...shares)).toBeGreaterThanOrEqual(4)
  })

  test('metrics are not passed on', async () => {
    await balance([replicas[0].url, replicas[1].url])
    expect((await fetch(`${balancer.url}/metrics`)).status).toBe(404)
    expect((await fetch(`${balancer.url}/health/ready`)).status).toBe(200)
  })

  test('a replica that loads gets nothing until it is ready', async () => {
    const { engine } = await startServer()
    let arrive!: (engine: Engine) => void
    const loading = new Promise<Engine>((resolve) => {
      arrive = resolve
    })
    const late = await startServer({ engine: { demo: loading }, proxies: ['127.0.0.1'] })
    await balance([replicas[0].url, late.url])
    await until(isDown('b'))
    const client = openaiOf(balancer)
    for (let i = 0; i < 6; i++) await client.completions.create(REQUEST)
    expect(await answered(late)).toBe(0)
    arrive(engine)
    await until(isUp('b'))
    await Promise.all(Array.from({ length: 12 }, () => client.completions.create(REQUEST)))
    expect(await answered(late)).toBeGreaterThan(0)
  })

  test('a replica that drains ends its streams through the balancer, and gets nothing new', async () => {
    await balance([replicas[0].url, replicas[1].url])
    await Promise.all([until(isUp('a')), until(isUp('b'))])
    const client = openaiOf(balancer)
    const streams = await Promise.all(Array.from({ length: 6 }, () => client.completions.create(STREAM)))
    const texts = streams.map(textOf)
    await until(async () => (await metricOf(replicas[0].url, 'gorgon_running{model="demo"}')) > 0)
    const before = await answered(replicas[1])
    const { serving } = replicas[0]
    serving.child.kill('SIGTERM')
    await serving.logged('draining')
    // At once, while the balancer may not know: what is refused is done by the other replica.
    for (let i = 0; i < 4; i++) expect((await client.completions.create(REQUEST)).choices[0]!.text).toBe(expected)
    expect(await answered(replicas[1])).toBeGreaterThanOrEqual(before + 4)
    // Large ones too, as far as the balancer holds them.
    const text = 'const x = 1;\n'.repeat(8000)
    for (let i = 0; i < 4; i++) {
      const response = await fetch(`${balancer.url}/tokenize`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ text }),
      })
      expect(response.status).toBe(200)
    }
    await until(isDown('a'))
    expect(await Promise.all(texts)).toEqual(streams.map(() => expectedStream))
    expect(await serving.exit).toEqual([0, null])
  })

  test('a rolling restart under load loses no request', async () => {
    await balance([replicas[0].url, replicas[1].url])
    const client = openaiOf(balancer)
    let isOver = false
    let count = 0
    const work = async (): Promise<void> => {
      while (!isOver) {
        const text = await textOf(await client.completions.create({ ...STREAM, max_tokens: 40 }))
        expect(text).toBe(expectedStream.slice(0, text.length))
        expect(text.length).toBeGreaterThan(40)
        count += 1
      }
    }
    const clients = Promise.all(Array.from({ length: 4 }, work))
    // A failure must not wait for the restarts.
    const restarted = restartInTurn(() => count, 4).finally(() => {
      isOver = true
    })
    await Promise.all([clients, restarted])
    expect(count).toBeGreaterThan(10)
  })

  test('a client that names itself reaches the same replica each time', async () => {
    await balance([replicas[0].url, replicas[1].url])
    const used = new Set<number>()
    for (let name = 0; name < 8; name++) {
      const client = openaiOf(balancer, { defaultQuery: { affinity: `client-${name}` } })
      const before = await Promise.all(replicas.map(answered))
      for (let i = 0; i < 4; i++) await client.completions.create(REQUEST)
      const after = await Promise.all(replicas.map(answered))
      const shares = after.map((count, i) => count - before[i]!)
      expect(shares.toSorted()).toEqual([0, 4])
      used.add(shares.indexOf(4))
    }
    expect(used.size).toBe(2)
  })

  test('a conversation on a replica is found again by its name', async () => {
    await balance([replicas[0].url, replicas[1].url])
    const client = openaiOf(balancer, { defaultQuery: { affinity: 'talker' } })
    const options = { model: 'demo', max_output_tokens: 16 }
    const first = await client.responses.create({ ...options, input: 'const x = ' })
    let previous = first.id
    for (let turn = 0; turn < 5; turn++) {
      const next = await client.responses.create({ ...options, input: ';', previous_response_id: previous })
      expect(next.previous_response_id).toBe(previous)
      previous = next.id
    }
  })

  test('when a replica is killed its waiting requests are done by the other, and its name leads there', async () => {
    await balance([replicas[0].url, replicas[1].url])
    const client = openaiOf(balancer, { defaultQuery: { affinity: 'survivor' } })
    const before = await Promise.all(replicas.map(answered))
    await client.completions.create(REQUEST)
    const index = (await answered(replicas[0])) > before[0]! ? 0 : 1
    // In the midst of an answer that is not streamed: nothing of it has come yet.
    const answer = client.completions.create({ ...REQUEST, max_tokens: 600 })
    await until(async () => (await metricOf(replicas[index].url, 'gorgon_running{model="demo"}')) > 0)
    replicas[index].serving.child.kill('SIGKILL')
    expect((await answer).choices[0]!.text.slice(0, expected.length)).toBe(expected)
    for (let i = 0; i < 4; i++) expect((await client.completions.create(REQUEST)).choices[0]!.text).toBe(expected)
  })

  describe('over the native protocol', () => {
    /** The replica that a stream runs on. */
    async function runningOn(): Promise<0 | 1> {
      const running = 'gorgon_running{model="demo"}'
      const counts = await Promise.all(replicas.map(({ url }) => metricOf(url, running)))
      expect(counts.toSorted()).toEqual([0, 1])
      return counts[0] === 1 ? 0 : 1
    }

    test.each([1, 40, 160])(
      'a stream whose replica is killed after %i tokens goes on at the other, to the same text',
      async (tokens) => {
        await balance([replicas[0].url, replicas[1].url])
        await using client = connect(balancer.url)
        const generation = client.generate(PROMPT, OPTIONS)
        let text = ''
        let count = 0
        let isKilled = false
        for await (const chunk of generation) {
          text += chunk.text
          count += chunk.n
          if (count < tokens || isKilled) continue
          isKilled = true
          const index = await runningOn()
          replicas[index].serving.child.kill('SIGKILL')
          await replicas[index].serving.exit
        }
        expect(isKilled).toBe(true)
        expect(text).toBe(expectedStream)
        const result = await generation
        expect(result.text).toBe(expectedStream)
        expect(result.finish).toBe('length')
        expect(result.usage.completion).toBe(OPTIONS.maxTokens)
      },
    )

    test('a seed that the server chose leads to the same text elsewhere too', async () => {
      await balance([replicas[0].url, replicas[1].url])
      await using client = connect(balancer.url)
      const generation = client.generate(PROMPT, { maxTokens: 600, ignoreEos: true, temperature: 0.8 })
      const chunks = generation[Symbol.asyncIterator]()
      await chunks.next()
      const index = await runningOn()
      replicas[index].serving.child.kill('SIGKILL')
      for (let next = await chunks.next(); !next.done; next = await chunks.next());
      const { seed, text } = await generation
      const other = replicas[1 - index]!
      const again = await openaiOf(other).completions.create({ ...STREAM, seed: Number(seed), stream: false })
      expect(text).toBe(again.choices[0]!.text)
    })

    test('a rolling restart under load loses no response, and none waits for a drain that it is not part of', async () => {
      await balance([replicas[0].url, replicas[1].url])
      const clients = Array.from({ length: 3 }, () => connect(balancer.url))
      let isOver = false
      let count = 0
      const work = async (client: Client): Promise<void> => {
        while (!isOver) {
          const { text } = await client.generate(PROMPT, { ...OPTIONS, maxTokens: 60 })
          expect(text).toBe(expectedStream.slice(0, text.length))
          expect(text.length).toBeGreaterThan(60)
          count += 1
        }
      }
      const working = Promise.all(clients.map(work))
      const restarted = restartInTurn(() => count, 3).finally(() => {
        isOver = true
      })
      await Promise.all([working, restarted])
      await Promise.all(clients.map((client) => client.close()))
      expect(count).toBeGreaterThan(6)
    })

    test('a connection comes back to its replica, where the response is still being made', async () => {
      await balance([replicas[0].url, replicas[1].url])
      const sockets: WebSocket[] = []
      class Noted extends WebSocket {
        constructor(...given: ConstructorParameters<typeof WebSocket>) {
          super(...given)
          sockets.push(this)
        }
      }
      await using client = connect(balancer.url, { WebSocket: Noted as never })
      const generation = client.generate(PROMPT, OPTIONS)
      const finished = 'gorgon_requests_total{endpoint="stream",model="demo",finish="length"}'
      const counts = () => Promise.all(replicas.map(async ({ url }) => (await metricOf(url, finished)) || 0))
      const before = await counts()
      let text = ''
      let index: number | undefined
      for await (const chunk of generation) {
        text += chunk.text
        if (index !== undefined) continue
        index = await runningOn()
        sockets[0]!.terminate()
      }
      expect(text).toBe(expectedStream)
      expect(sockets).toHaveLength(2)
      // It was begun once, where it ended.
      const made = (await counts()).map((count, i) => count - before[i]!)
      expect(made).toEqual(index === 0 ? [1, 0] : [0, 1])
    })
  })
})
