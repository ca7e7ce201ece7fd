// The address of a server's socket, from what people have at hand.
import { ClientError } from './errors.js'

const SCHEMES: Readonly<Record<string, string>> = { 'ws:': 'ws:', 'wss:': 'wss:', 'http:': 'ws:', 'https:': 'wss:' }
const PATH = '/v1/stream'

/**
 * `http://host`, `https://host/v1` and `wss://host/some/prefix` lead to the socket there; one that names it already is left alone.
 *
 * @param affinity put into the query unless the URL has one.
 * @throws {ClientError} ERR_OPTION.
 */
export function socketUrl(url: string | URL, affinity: string | null, base?: string): string {
  const given = parsed(url, base)
  const protocol = given && SCHEMES[given.protocol]
  if (!given || !protocol) {
    throw new ClientError(
      'ERR_OPTION',
      `url is ${JSON.stringify(String(url))}: use the server's address, such as "ws://127.0.0.1:8080" or "https://example.org".`,
      { details: { path: 'url', value: String(url) } },
    )
  }
  // A URL does not change from http to ws in place in every engine.
  const target = new URL(given.href.replace(given.protocol, protocol))
  target.hash = ''
  target.pathname = `${target.pathname.replace(/\/+$/, '').replace(/\/v1(\/stream)?$/, '')}${PATH}`
  if (affinity !== null && !target.searchParams.has('affinity')) target.searchParams.set('affinity', affinity)
  return target.href
}

function parsed(url: string | URL, base: string | undefined): URL | null {
  try {
    return new URL(url, base)
  } catch {
    return null
  }
}
