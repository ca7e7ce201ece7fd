// One request and its answer: bodies within limits, answers at the reader's pace, and clients who do neither properly.
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import type { Engine } from '../../src/index.js'
import { problemOf } from '../../src/server/errors.js'
import { HttpExchange } from '../../src/server/http.js'
import { parseServerOptions, type ServerOptionsInput } from '../../src/server/options.js'
import { postText, rawClient } from '../support/raw-http.js'

const engine = { generate: () => undefined } as unknown as Engine
const open: { close(): void }[] = []

afterEach(() => {
  for (const server of open.splice(0)) server.close()
})

/** A server of one handler; gives its port. */
async function serving(
  handle: (exchange: HttpExchange) => Promise<void> | void,
  limits: ServerOptionsInput['limits'] = {},
): Promise<number> {
  const options = parseServerOptions({ engine, limits })
  const http = createHttpServer()
  const serve = async (exchange: HttpExchange): Promise<void> => {
    try {
      await handle(exchange)
      exchange.finish()
    } catch (error) {
      await exchange.fail(problemOf(error, 'req-1'))
    }
  }
  for (const event of ['request', 'checkContinue']) {
    http.on(event, (request, response) => {
      const principal = { id: 'somebody', maxPriority: 0 }
      const url = new URL(request.url, 'http://server')
      void serve(new HttpExchange(request, response, { url, requestId: 'req-1', principal, limits: options.limits }))
    })
  }
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  open.push({
    close: () => {
      http.close()
      http.closeAllConnections()
    },
  })
  return (http.address() as AddressInfo).port
}

const Sized = z.strictObject({ text: z.string() })
const echo = async (exchange: HttpExchange): Promise<void> => {
  const { text } = await exchange.body(Sized)
  exchange.json(200, { length: text.length })
}
const post = (port: number, body: string | Uint8Array | ReadableStream, headers: Record<string, string> = {}) =>
  fetch(`http://127.0.0.1:${port}/`, {
    method: 'POST',
    body: body as never,
    headers: { 'content-type': 'application/json', ...headers },
    duplex: 'half',
  } as never)
const codeOf = async (answer: Response): Promise<string> =>
  ((await answer.json()) as { error: { code: string } }).error.code

describe('a body', () => {
  test('is read and parsed', async () => {
    const answer = await post(await serving(echo), '{"text":"äöü"}')
    expect(answer.status).toBe(200)
    expect(await answer.json()).toEqual({ length: 3 })
  })

  test.each(['application/json', 'Application/JSON; charset=UTF-8', 'application/vnd.api+json'])(
    'of type %s is JSON',
    async (type) => {
      const answer = await post(await serving(echo), '{"text":""}', { 'content-type': type })
      expect(answer.status).toBe(200)
    },
  )

  test.each(['text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=latin1', 'json'])(
    'of type %s is refused, with the type to use',
    async (type) => {
      const answer = await post(await serving(echo), '{"text":""}', { 'content-type': type })
      expect(answer.status).toBe(415)
      expect(await answer.json()).toMatchObject({
        error: { code: 'ERR_BODY', message: expect.stringContaining('Content-Type: application/json') },
      })
    },
  )

  test('that is compressed is refused', async () => {
    const answer = await post(await serving(echo), 'x', { 'content-encoding': 'gzip' })
    expect(answer.status).toBe(415)
  })

  test.each([
    ['nothing', ''],
    ['half an object', '{"text":'],
    ['no JSON', 'text=1'],
    ['broken UTF-8', Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d])],
    ['half a surrogate pair in UTF-8', Uint8Array.from([...Buffer.from('{"text":"'), 0xed, 0xa0, 0x80, 0x22, 0x7d])],
  ])('of %s is refused, and not repeated', async (_, body) => {
    const answer = await post(await serving(echo), body)
    expect(answer.status).toBe(400)
    const text = await answer.text()
    expect(JSON.parse(text).error.code).toBe('ERR_BODY')
    expect(text).not.toContain('text=1')
  })

  test.each([
    ['an array', '[]'],
    ['null', 'null'],
    ['a number', '1e999'],
    ['a prototype', '{"__proto__":{"text":"x"}}'],
    ['a prototype beside', '{"text":"x","__proto__":{"polluted":true}}'],
    ['a constructor', '{"text":"x","constructor":{"prototype":{"polluted":true}}}'],
  ])('of %s is not what the schema takes', async (_, body) => {
    const answer = await post(await serving(echo), body)
    expect(answer.status).toBe(400)
    expect(await codeOf(answer)).toBe('ERR_OPTION')
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })

  test('nested a million deep is refused, and the server lives', async () => {
    const port = await serving(echo)
    const deep = 1_000_000
    for (const body of [`${'['.repeat(deep)}${']'.repeat(deep)}`, `{"text":${'['.repeat(deep)}`]) {
      expect((await post(port, body)).status).toBe(400)
    }
    expect((await post(port, '{"text":"x"}')).status).toBe(200)
  })

  test('at the limit is taken, a byte more is not', async () => {
    const port = await serving(echo, { bodyBytes: 100 })
    const sized = (bytes: number) => `{"text":"${'x'.repeat(bytes - 11)}"}`
    expect((await post(port, sized(100))).status).toBe(200)
    const answer = await post(port, sized(101))
    expect(answer.status).toBe(413)
    expect(await codeOf(answer)).toBe('ERR_TOO_LARGE')
  })

  test('without a length is counted as it comes', async () => {
    const port = await serving(echo, { bodyBytes: 1000 })
    const part = new TextEncoder().encode('x'.repeat(600))
    const chunked = () =>
      new ReadableStream({
        start(controller) {
          controller.enqueue(part)
          controller.enqueue(part)
          controller.close()
        },
      })
    expect((await post(port, chunked())).status).toBe(413)
  })

  test('far too large is answered, and the connection closed without its being read', async () => {
    const port = await serving(echo, { bodyBytes: 1000 })
    const client = await rawClient(port)
    client.write(postText('/', '', { 'content-length': String(2 ** 40) }))
    const flood = Buffer.alloc(64 * 1024)
    client.socket.on('drain', () => client.write(flood))
    client.write(flood)
    const answer = await client.closed()
    expect(answer).toMatch(/^HTTP\/1\.1 413 [\s\S]*connection: close[\s\S]*ERR_TOO_LARGE/i)
  })

  test('that does not arrive in time is given up', async () => {
    const port = await serving(echo, { bodyMs: 100 })
    const client = await rawClient(port)
    client.write(postText('/', '', { 'content-length': '10' }))
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 408 [\s\S]*connection: close[\s\S]*ERR_REQUEST_TIMEOUT/i)
  })

  test('is asked for when the client waits for that, and not when it would be refused', async () => {
    const port = await serving(echo, { bodyBytes: 100 })
    const polite = await rawClient(port)
    const [head, body] = postText('/', '{"text":"x"}', { expect: '100-continue' }).split('\r\n\r\n')
    polite.write(`${head}\r\n\r\n`)
    await polite.until(/100 Continue\r\n\r\n/)
    polite.write(body!)
    expect(await polite.until(/length/)).toMatch(/HTTP\/1\.1 200/)
    polite.socket.destroy()

    const large = await rawClient(port)
    large.write(postText('/', '', { expect: '100-continue', 'content-length': '101' }))
    const answer = await large.closed()
    expect(answer).toMatch(/^HTTP\/1\.1 413/)
    expect(answer).not.toContain('100 Continue')
  })

  test('whose client leaves in the middle ends the handler', async () => {
    let failed: (error: unknown) => void
    const failure = new Promise<unknown>((resolve) => {
      failed = resolve
    })
    const port = await serving(async (exchange) => {
      await exchange.body(Sized).catch((error: unknown) => {
        failed(error)
        throw error
      })
    })
    const client = await rawClient(port)
    client.write(postText('/', '{"te', { 'content-length': '100' }))
    client.socket.end()
    expect(await failure).toMatchObject({ code: 'ERR_BODY' })
  })
})

describe('an answer', () => {
  test('may end without a body', async () => {
    const port = await serving(({ response }) => void response.writeHead(204))
    expect((await fetch(`http://127.0.0.1:${port}/`)).status).toBe(204)
  })

  test('that fails half way is broken off', async () => {
    const port = await serving(async ({ response }) => {
      await new Promise((resolve) => response.writeHead(200, { 'content-length': '10' }).write('half', resolve))
      throw new Error('then it failed')
    })
    const answer = await fetch(`http://127.0.0.1:${port}/`)
    await expect(answer.text()).rejects.toThrow()
  })

  test('that nobody reads is given up', async () => {
    let ended: Promise<void> | undefined
    const port = await serving(
      (exchange) => {
        ended = exchange.closed
        exchange.json(200, 'x'.repeat(32 * 1024 * 1024))
      },
      { bodyMs: 200 },
    )
    const client = await rawClient(port)
    client.socket.pause()
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    while (!ended) await new Promise((resolve) => setImmediate(resolve))
    await ended
    client.socket.destroy()
  })
})

describe('events', () => {
  test('are framed, named or not, text as it is', async () => {
    const port = await serving(async (exchange) => {
      const events = exchange.events({ 'x-extra': '1' })
      await events.send(null, { a: 'line\nline' })
      await events.send('named', ['ä'])
      await events.send(null, 'two\nlines\r\nor\rfour')
      await events.send(null, '[DONE]')
    })
    const answer = await fetch(`http://127.0.0.1:${port}/`)
    expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(answer.headers.get('cache-control')).toContain('no-transform')
    expect(answer.headers.get('x-extra')).toBe('1')
    expect(await answer.text()).toBe(
      [
        'data: {"a":"line\\nline"}\n\n',
        'event: named\ndata: ["ä"]\n\n',
        'data: two\ndata: lines\ndata: or\ndata: four\n\n',
        'data: [DONE]\n\n',
      ].join(''),
    )
  })

  test('begin before the first is sent', async () => {
    let go: () => void = () => undefined
    const port = await serving(async (exchange) => {
      exchange.events()
      await new Promise<void>((resolve) => {
        go = resolve
      })
    })
    const answer = await fetch(`http://127.0.0.1:${port}/`)
    expect(answer.status).toBe(200)
    go()
    expect(await answer.text()).toBe('')
  })

  test('end with the error, when the handler fails', async () => {
    const port = await serving(async (exchange) => {
      await exchange.events().send(null, 1)
      throw new Error('something inside')
    })
    const text = await (await fetch(`http://127.0.0.1:${port}/`)).text()
    expect(text).toMatch(/^data: 1\n\nevent: error\ndata: \{"error":\{"message":"The server failed.*"\}\}\n\n$/)
    expect(text).not.toContain('something inside')
  })

  test('say that they live while there is nothing to say', async () => {
    const port = await serving(
      async (exchange) => {
        exchange.events()
        await new Promise((resolve) => exchange.signal.addEventListener('abort', resolve))
      },
      { heartbeatMs: 100 },
    )
    const client = await rawClient(port)
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await client.until(/: ping\n\n[\s\S]*: ping\n\n/)
    client.socket.destroy()
  })

  test('wait for a reader who is slow, and go on when it reads', async () => {
    let sent = 0
    const large = 'x'.repeat(64 * 1024)
    const port = await serving(async (exchange) => {
      const events = exchange.events()
      for (; sent < 400; sent++) await events.send(null, large)
    })
    const client = await rawClient(port)
    client.socket.pause()
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n')
    // Until what lies between the two is full.
    for (let before = -1; before !== sent || sent === 0; ) {
      before = sent
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    expect(sent).toBeLessThan(400)
    client.socket.resume()
    const all = await client.closed()
    expect(sent).toBe(400)
    expect(all.match(/data: x/g)).toHaveLength(400)
  })

  test('are cut off when the reader takes nothing at all', async () => {
    const large = 'x'.repeat(64 * 1024)
    let failed: (error: unknown) => void
    const failure = new Promise<unknown>((resolve) => {
      failed = resolve
    })
    const port = await serving(
      async (exchange) => {
        const events = exchange.events()
        try {
          for (let i = 0; i < 10_000; i++) await events.send(null, large)
        } catch (error) {
          failed({ error, signal: exchange.signal.aborted })
          throw error
        }
      },
      { stallMs: 100 },
    )
    const client = await rawClient(port)
    client.socket.pause()
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    expect(await failure).toMatchObject({ error: { name: 'AbortError' }, signal: true })
    client.socket.destroy()
  })

  test('that end in an error nobody reads are given up', async () => {
    let ended: Promise<void> | undefined
    const port = await serving(
      async (exchange) => {
        ended = exchange.closed
        exchange
          .events()
          .send(null, 'x'.repeat(32 * 1024 * 1024))
          .catch(() => undefined)
        throw new Error('then it failed')
      },
      { bodyMs: 200, stallMs: 60_000 },
    )
    const client = await rawClient(port)
    client.socket.pause()
    client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n')
    while (!ended) await new Promise((resolve) => setImmediate(resolve))
    await ended
    client.socket.destroy()
  })

  test('to somebody who left reject, and the signal says so', async () => {
    let left: (what: unknown) => void
    const seen = new Promise<unknown>((resolve) => {
      left = resolve
    })
    const port = await serving(async (exchange) => {
      const events = exchange.events()
      await new Promise((resolve) => exchange.signal.addEventListener('abort', resolve))
      await events.send(null, 1).catch(left)
    })
    const leaving = new AbortController()
    await fetch(`http://127.0.0.1:${port}/`, { signal: leaving.signal })
    leaving.abort()
    expect(await seen).toMatchObject({ name: 'AbortError' })
  })

  test('to a HEAD request have no body', async () => {
    const port = await serving(async (exchange) => exchange.events().send(null, 1))
    const answer = await fetch(`http://127.0.0.1:${port}/`, { method: 'HEAD' })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toBe('')
  })
})

describe('requests that share a connection', () => {
  test('are answered in order, each once', async () => {
    const port = await serving(echo)
    const client = await rawClient(port)
    client.write([1, 2, 3].map((n) => postText('/', `{"text":"${'x'.repeat(n)}"}`)).join(''))
    const all = await client.until(/length":3/)
    expect(Array.from(all.matchAll(/"length":(\d)/g), ([, length]) => length)).toEqual(['1', '2', '3'])
    client.socket.destroy()
  })

  test('all learn that the client is gone, also those that wait for their turn to answer', async () => {
    const exchanges: HttpExchange[] = []
    let both: () => void
    const arrived = new Promise<void>((resolve) => {
      both = resolve
    })
    const port = await serving(async (exchange) => {
      exchanges.push(exchange)
      if (exchanges.length === 2) both()
      await exchange.closed
    })
    const client = await rawClient(port)
    client.write(postText('/', '{}') + postText('/', '{}'))
    await arrived
    client.socket.destroy()
    await Promise.all(exchanges.map(({ closed }) => closed))
    expect(exchanges.map(({ signal }) => signal.aborted)).toEqual([true, true])
  })
})
