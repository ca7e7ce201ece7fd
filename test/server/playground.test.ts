// The playground's files are served as they should be, and no others.
import { request } from 'node:http'
import { posix } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { ASSETS } from '../../src/server/playground.js'
import { expectCompiled } from '../support/compiled.js'
import { runningServers } from '../support/server.js'

const startServer = runningServers()
const paths = ASSETS.map(({ path }) => `/${path}`)

beforeAll(() => expectCompiled('client', 'server/playground'))

/** A request whose path goes out as it is written. */
function rawGet(port: number, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (part) => {
        body += part
      })
      response.on('end', () => resolve({ status: response.statusCode!, body }))
    })
      .on('error', reject)
      .end()
  })
}

/** Paths that a served file asks for, from the root. */
function references(path: string, text: string): string[] {
  const found = path.endsWith('.js')
    ? [...text.matchAll(/^(?:import|export)\b[^;]*?\sfrom '([^'\n]+)'/gm)]
    : path.endsWith('.css')
      ? [...text.matchAll(/url\(([^)]+)\)/g)]
      : [...text.matchAll(/<(?:script|link|img)[^>]*\s(?:src|href)="([^"]+)"/g)]
  return found.map((match) => posix.resolve(posix.dirname(path === '/' ? '/index.html' : path), match[1]!))
}

test('every file is served with its type, to be asked for again each time, and never to be guessed at', async () => {
  const { url } = await startServer()
  for (const { path, type } of ASSETS) {
    const response = await fetch(`${url}/${path}`)
    expect(response.status, path).toBe(200)
    expect(Object.fromEntries(response.headers), path).toMatchObject({
      'content-type': type,
      'cache-control': 'no-cache',
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cross-origin-resource-policy': 'same-origin',
    })
    const policy = response.headers.get('content-security-policy')!
    for (const rule of ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"])
      expect(policy).toContain(rule)
    expect(policy).not.toContain('unsafe')
    expect((await response.arrayBuffer()).byteLength).toBe(Number(response.headers.get('content-length')))
  }
})

test('a browser that has a file already is not sent it again', async () => {
  const { url } = await startServer()
  const first = await fetch(url)
  const etag = first.headers.get('etag')!
  for (const known of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
    const again = await fetch(url, { headers: { 'if-none-match': known } })
    expect(again.status).toBe(304)
    expect(await again.text()).toBe('')
    expect(again.headers.get('etag')).toBe(etag)
  }
  const changed = await fetch(url, { headers: { 'if-none-match': '"other"' } })
  expect(await changed.text()).toBe(await first.text())
})

test('HEAD says the same without the file', async () => {
  const { url } = await startServer()
  const [head, get] = [await fetch(url, { method: 'HEAD' }), await fetch(url)]
  expect(head.headers.get('content-length')).toBe(get.headers.get('content-length'))
  expect(await head.text()).toBe('')
})

test('the page needs the files that are there, all of them, and nothing from elsewhere', async () => {
  const { url } = await startServer()
  const needed = new Set(['/'])
  for (const path of needed) {
    const text = await (await fetch(url + path)).text()
    for (const reference of references(path, text)) needed.add(reference)
    const hosts = text.match(/(?<=["'`(])(?:https?:)?\/\/[a-z0-9-]+(\.[a-z0-9-]+)+/gi) ?? []
    // The name of SVG, and what error messages give as an example: nobody is asked for them.
    const asked = hosts.filter((host) => !['http://www.w3.org', 'https://example.org'].includes(host))
    expect(asked, path).toEqual([])
  }
  expect([...needed].sort()).toEqual([...paths].sort())
})

test('the page has no script, style or handler of its own, which its policy would refuse', async () => {
  const { url } = await startServer()
  const page = await (await fetch(url)).text()
  expect(page).not.toMatch(/<script(?![^>]*\ssrc=)/)
  expect(page).not.toMatch(/<style|\sstyle=|\son[a-z]+=|javascript:/)
})

describe('a path that is not in the table', () => {
  test.each([
    '/assets',
    '/assets/',
    '/assets/server/playground/',
    '/assets/server/playground/main.ts',
    '/assets/server/playground/tsconfig.json',
    '/assets/server/server.js',
    '/assets/../package.json',
    '/assets/server/playground/../../../../package.json',
    '/assets/server/playground/..%2f..%2f..%2f..%2fpackage.json',
    '/assets/%2e%2e/%2e%2e/package.json',
    '/assets/server/playground/style.css/../../../../package.json',
    '/assets\\..\\package.json',
    '/assets/server/playground/style.css%00.js',
    '//etc/passwd',
    '/assets//etc/passwd',
    '/__proto__',
  ])('%s leads to no file', async (path) => {
    const { port } = await startServer()
    const { status, body } = await rawGet(port, path)
    expect([400, 404]).toContain(status)
    expect(body).not.toMatch(/"version"|"extends"|root:|^import /)
  })
})

test('switched off, it says so, and none of its files is there', async () => {
  const { url } = await startServer({ playground: false })
  const response = await fetch(url)
  expect(response.status).toBe(404)
  expect(await response.json()).toMatchObject({ error: { message: expect.stringContaining('switched off') } })
  for (const path of paths.slice(1)) expect((await fetch(url + path)).status, path).toBe(404)
})

test('a server with keys shows the page to everybody, and nothing else', async () => {
  const { url } = await startServer({ keys: ['a-key-for-this-test'] })
  for (const path of paths) expect((await fetch(url + path)).status, path).toBe(200)
  expect((await fetch(`${url}/tokenize`, { method: 'POST', body: '{}' })).status).toBe(401)
})
