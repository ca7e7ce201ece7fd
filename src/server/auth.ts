// Who asks, and whether a web page may ask for them: keys, principals, origins, host names.
import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { GorgonError } from '../errors.js'
import { AddressList, networkOf, plainAddress } from './connections.js'
import type { ServerOptions } from './options.js'

/** Who a request is from. */
export interface Principal {
  /** Of its key, the name or a short hash, never the key; without keys `address:…`. */
  readonly id: string
  /** What a request asks beyond this is cut to it. */
  readonly maxPriority: number
}

/** What `authenticate` decides by. */
export interface Credentials {
  /** From `Authorization: Bearer`, or as the socket's protocol carried it; null when there is none. */
  readonly token: string | null
  /** Of the client; IPv4 addresses in their own form. */
  readonly address: string
  readonly request: IncomingMessage
}

const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest()

/** What `Authorization: Bearer` carries; null without it. */
export function bearerOf(request: IncomingMessage): string | null {
  return /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1] ?? null
}

export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[(.*)\]$/, '$1').toLowerCase()
  if (isIP(name) === 4) return name.startsWith('127.')
  return name === '::1' || name === 'localhost' || name.endsWith('.localhost')
}

/** The name in a Host header, without its port. */
function nameOf(host: string): string {
  return host.replace(/:\d*$/, '').toLowerCase()
}

interface KnownKey {
  readonly hash: Buffer
  readonly principal: Principal
}

export class Guard {
  readonly #keys: readonly KnownKey[]
  readonly #authenticate: ServerOptions['authenticate']
  readonly #origins: ReadonlySet<string>
  /** Host names that this server has; null where any will do. */
  readonly #hosts: ReadonlySet<string> | null
  readonly #anybody: Pick<Principal, 'maxPriority'>
  readonly #proxies: AddressList

  /** @throws {GorgonError} ERR_OPTION when anybody on the network could use the server and nobody said that they may. */
  constructor({ host, keys, authenticate, allowPublic, origins, proxies }: ServerOptions) {
    const isLocal = isLoopback(host)
    const isOpen = keys.length === 0 && !authenticate
    if (isOpen && !isLocal && !allowPublic) {
      const message = `host is "${host}", where others than this machine can connect, and there are no keys: anybody could use the model. Give keys, listen on 127.0.0.1, or say allowPublic.`
      throw new GorgonError('ERR_OPTION', message, { path: 'host', value: host, problems: [{ path: 'host', message }] })
    }
    this.#keys = keys.map((entry) => {
      const { key, name, maxPriority } =
        typeof entry === 'string' ? { key: entry, name: undefined, maxPriority: 0 } : entry
      const hash = hashOf(key)
      return { hash, principal: { id: name ?? `key:${hash.toString('hex').slice(0, 8)}`, maxPriority } }
    })
    this.#authenticate = authenticate
    this.#origins = new Set(origins)
    // A page of any name can have its name lead to this machine, and then count as of the same origin; where keys are asked for that
    // gains nothing.
    const named = origins.filter((origin) => origin !== '*').map((origin) => new URL(origin).hostname)
    this.#hosts = isOpen && isLocal ? new Set(named) : null
    this.#anybody = { maxPriority: isLocal ? 10 : 0 }
    this.#proxies = new AddressList(proxies)
  }

  /** Whether requests need a key. */
  get asksForKeys(): boolean {
    return this.#keys.length > 0 || this.#authenticate !== undefined
  }

  /** Who asks, by the Authorization header; see `identify`. */
  authenticate(request: IncomingMessage): Promise<Principal> {
    return this.identify(request, bearerOf(request))
  }

  /**
   * Who asks, with a key that came in whichever way.
   *
   * @throws {GorgonError} ERR_UNAUTHORIZED.
   */
  async identify(request: IncomingMessage, token: string | null): Promise<Principal> {
    if (!this.asksForKeys) return this.stranger(request)
    const found = this.#authenticate
      ? await this.#authenticate({ token, address: this.addressOf(request), request })
      : this.#find(token)
    if (found) return { id: found.id, maxPriority: found.maxPriority ?? 0 }
    throw new GorgonError(
      'ERR_UNAUTHORIZED',
      token === null
        ? 'The request carries no key. Send "Authorization: Bearer KEY".'
        : 'The key is not one of this server. Check it, or ask whoever runs the server.',
    )
  }

  /** Somebody without a key. */
  stranger(request: IncomingMessage): Principal {
    return { id: `address:${networkOf(this.addressOf(request))}`, ...this.#anybody }
  }

  /** The client's address, as the nearest proxy that is not ours names it. */
  addressOf(request: IncomingMessage): string {
    const forwarded = String(request.headers['x-forwarded-for'] ?? '').split(',')
    let address = plainAddress(request.socket.remoteAddress)
    // Each proxy appends whom it heard it from; what stands before the first that is not trusted may be made up.
    while (this.#proxies.has(address)) {
      const before = plainAddress(forwarded.pop()?.trim())
      if (!isIP(before)) break
      address = before
    }
    return address
  }

  /** Every key is compared, each in constant time: how long it takes says nothing about any. */
  #find(token: string | null): Principal | null {
    const hash = hashOf(token ?? '')
    let found: Principal | null = null
    for (const known of this.#keys) {
      const isSame = timingSafeEqual(known.hash, hash)
      if (isSame && token !== null) found = known.principal
    }
    return found
  }

  /** The origin of the page that asks, if it may use the server from elsewhere; null for all other requests. */
  allowedOrigin({ headers: { origin } }: IncomingMessage): string | null {
    return origin !== undefined && (this.#origins.has('*') || this.#origins.has(origin)) ? origin : null
  }

  /**
   * Refuses pages of foreign origins, and names that are not this server's.
   *
   * @param isHarmless for a request whose answer only matters to a page that could read it.
   * @throws {GorgonError} ERR_FORBIDDEN.
   */
  checkOrigin(request: IncomingMessage, { isHarmless = false }: { readonly isHarmless?: boolean } = {}): void {
    const { origin, host = '' } = request.headers
    const name = nameOf(host)
    if (
      this.#hosts &&
      name !== '' &&
      !isIP(name.replace(/^\[(.*)\]$/, '$1')) &&
      !isLoopback(name) &&
      !this.#hosts.has(name)
    ) {
      throw new GorgonError(
        'ERR_FORBIDDEN',
        `The request is for host "${name.slice(0, 100)}", which is no name of this server. Use its address, or list the origin it is reached by.`,
        { host: name },
      )
    }
    if (origin === undefined || isHarmless || this.allowedOrigin(request) !== null || isSameHost(origin, host)) return
    throw new GorgonError(
      'ERR_FORBIDDEN',
      `Pages of ${origin.slice(0, 100)} may not use this server. List the origin where the server is started, if they should.`,
      { origin },
    )
  }
}

function isSameHost(origin: string, host: string): boolean {
  try {
    const { protocol, host: own } = new URL(origin)
    // A default port is not part of an origin, but may be written in a Host header.
    return own !== '' && new URL(`${protocol}//${host}`).host === own
  } catch {
    return false
  }
}
