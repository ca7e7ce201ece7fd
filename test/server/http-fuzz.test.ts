// Whatever comes over a connection, the server answers it or closes it, is never at fault, and serves the next.
import { expect, test } from 'vitest'
import { createLogger } from '../../src/server/log.js'
import { heldBytes } from '../support/memory.js'
import { Random } from '../support/random.js'
import { postText, rawClient } from '../support/raw-http.js'
import { runningServers, until } from '../support/server.js'
import { toyEngines } from '../support/toy-engine.js'

const startServer = runningServers()
const toyEngine = toyEngines()

const AT_ONCE = 250

const PATHS = ['/v1/completions', '/v1/chat/completions', '/v1/responses', '/tokenize', '/detokenize']
const BODIES: Readonly<Record<string, object>> = {
  '/v1/completions': { prompt: 'x', max_tokens: 4, stream: true, n: 2, temperature: 1, stop: ['a'], logprobs: 2 },
  '/v1/chat/completions': { messages: [{ role: 'user', content: 'x' }], max_tokens: 4, logit_bias: { 5: 1 } },
  '/v1/responses': { input: 'x', max_output_tokens: 4, instructions: 'y', stream: true },
  '/tokenize': { text: 'some text', addSpecial: false },
  '/detokenize': { tokens: [1, 2, 3], skipSpecial: true },
}
const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1e308,
  0.1,
  2 ** 53,
  -(2 ** 63),
  '',
  'x',
  '\u0000',
  '\ud800',
  '🦖'.repeat(50),
  [],
  [[]],
  [null],
  {},
  { a: {} },
  '__proto__',
  ['__proto__'],
  { toString: 1 },
  { constructor: null },
  Array(2000).fill(1),
  'x'.repeat(5000),
]
const METHODS = ['GET', 'POST', 'DELETE', 'PUT', 'PATCH', 'HEAD', 'OPTIONS', 'TRACE', 'CONNECT', 'QUERY', 'FOO', 'post']
const TARGETS = [
  ...PATHS,
  '/',
  '/health',
  '/metrics',
  '/v1/models',
  '/v1/models/%2e%2e',
  '/v1/models/%',
  '/v1/responses/resp_x',
  '//',
  '/../etc/passwd',
  '*',
  'http://evil.example/health',
  '/health?'.padEnd(2000, 'q'),
  '/%00',
  '/v1/models/%E0%A4%A',
  'health',
  '/health#x',
]
const HEADERS = [
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip, chunked',
  'Content-Length: -1',
  'Content-Length: 99999999999999999999',
  'Content-Length: 0',
  'Expect: 100-continue',
  'Expect: something',
  'Connection: close',
  'Connection: Upgrade\r\nUpgrade: websocket',
  'Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA',
  'Content-Type: text/plain',
  'Content-Encoding: br',
  'Origin: null',
  'Origin: https://evil.example',
  'Host: evil.example',
  'Host: ',
  'Authorization: Bearer',
  'Authorization: Bearer \x01',
  'X-Request-Id: a b',
  'Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: gorgon.v1',
  'Cookie: '.padEnd(9000, 'c'),
  'No colon here',
  ': empty',
  'X-Folded: a\r\n b',
  'Range: bytes=0-',
  'Accept: */*;q=nonsense',
]

/** A body of the right kind in which something is odd. */
function oddBody(random: Random, path: string): string {
  const body: Record<string, unknown> = { ...BODIES[path] }
  const keys = [...Object.keys(body), 'model', 'seed', 'user', 'gorgon', 'options', '__proto__']
  for (let changes = random.integer(1, 3); changes > 0; changes--) {
    const key = random.pick(keys)
    if (random.uniform() < 0.2) delete body[key]
    else Object.defineProperty(body, key, { value: random.pick(ODD_VALUES), enumerable: true, configurable: true })
  }
  return JSON.stringify(body)
}

/** A request of odd parts. */
function oddRequest(random: Random): string {
  const headers = Array.from({ length: random.integer(0, 3) }, () => random.pick(HEADERS))
  const head = [
    `${random.pick(METHODS)} ${random.pick(TARGETS)} HTTP/${random.pick(['1.1', '1.0', '0.9', '2'])}`,
    'Host: localhost',
  ]
  return `${[...head, ...headers].join('\r\n')}\r\n\r\n${random.uniform() < 0.5 ? '5\r\nhello\r\n0\r\n\r\n' : ''}`
}

/** Bytes changed, lost, doubled and put in. */
function mutated(random: Random, request: string): Buffer {
  let bytes = Buffer.from(request, 'utf8')
  for (let changes = random.integer(1, 6); changes > 0 && bytes.length > 0; changes--) {
    const at = random.integer(0, bytes.length - 1)
    const end = Math.min(bytes.length, at + random.integer(1, 8))
    const way = random.integer(0, 3)
    if (way === 0) bytes[at] = random.integer(0, 255)
    else if (way === 1) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)])
    else if (way === 2) bytes = Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)])
    else bytes = Buffer.concat([bytes.subarray(0, at), garbage(random, 8), bytes.subarray(at)])
  }
  return bytes
}

function garbage(random: Random, most: number): Buffer {
  return Buffer.from(Array.from({ length: random.integer(1, most) }, () => random.integer(0, 255)))
}

function anything(random: Random): Buffer {
  const path = random.pick(PATHS)
  const valid = postText(path, JSON.stringify(BODIES[path]))
  switch (random.integer(0, 5)) {
    case 0:
      return garbage(random, 2000)
    case 1:
      return Buffer.from(valid).subarray(0, random.integer(0, valid.length))
    case 2:
      return mutated(random, valid)
    case 3:
      return Buffer.from(oddRequest(random), 'latin1')
    case 4:
      return Buffer.from(postText(path, oddBody(random, path)))
    default:
      return Buffer.concat([Buffer.from(postText(path, oddBody(random, path))), mutated(random, valid)])
  }
}

test('garbage, halves, mutations and odd values are answered or cut off, and leave nothing behind', async () => {
  const faults: string[] = []
  const logger = createLogger('error', { write: (line) => faults.push(line.slice(0, 500)) })
  const { engine } = toyEngine()
  const { port, url } = await startServer({
    engine,
    logger,
    limits: { headersMs: 300, bodyMs: 300, connectionsPerAddress: 1024 },
  })

  const attack = async (name: string): Promise<number> => {
    const random = new Random(name)
    const client = await rawClient(port)
    client.write(anything(random))
    // Some leave at once, some say that they have said all, the others wait.
    const end = random.integer(0, 3)
    if (end === 0) client.socket.destroy()
    else if (end === 1) client.socket.end()
    else await client.until(/\r\n\r\n/)
    client.socket.end()
    const answer = await client.closed()
    if (answer !== '') expect(answer, name).toMatch(/^HTTP\/1\.1 \d{3} /)
    return Number(/ (\d{3}) /.exec(answer)?.[1] ?? 0)
  }

  const round = async (begin: number, end: number): Promise<Map<number, number>> => {
    const statuses = new Map<number, number>()
    for (let i = begin; i < end; i += AT_ONCE) {
      const names = Array.from({ length: AT_ONCE }, (_, k) => `attack ${i + k}`)
      for (const status of await Promise.all(names.map(attack))) statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
    return statuses
  }

  await round(0, AT_ONCE)
  const before = await heldBytes()
  const statuses = await round(AT_ONCE, 1250)
  expect(faults).toEqual([])
  expect(statuses.get(500)).toBeUndefined()
  // It reached further than the parser.
  for (const status of [200, 400, 404, 405]) expect(statuses.get(status), `${status}`).toBeGreaterThan(0)

  const answer = await fetch(`${url}/tokenize`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"text":"still here"}',
  })
  expect(answer.status).toBe(200)
  await until(() => engine.stats().running + engine.stats().queued === 0)
  expect((await heldBytes()) - before).toBeLessThan(8 * 1024 * 1024)
})
