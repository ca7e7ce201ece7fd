// Who is connected: how many in all, how many from one address, and how many requests each has under way.
import { BlockList, isIP, type Socket } from 'node:net'
import { GorgonError } from '../errors.js'
import type { ServerLimits } from './options.js'

/** IPv4 in its own form, also where the socket is IPv6's. */
export function plainAddress(address: string | undefined): string {
  return (address ?? 'unknown').replace(/^::ffff:(?=\d+\.)/i, '')
}

/** Addresses of one customer: of IPv6 everybody has a /64. */
export function networkOf(address: string): string {
  if (isIP(address) !== 6) return address
  const [head = '', tail] = address.split('%')[0]!.split('::')
  const before = head === '' ? [] : head.split(':')
  const after = tail ? tail.split(':') : []
  const zeros = tail === undefined ? 0 : 8 - before.length - after.length
  const groups = [...before, ...Array<string>(Math.max(0, zeros)).fill('0'), ...after]
  return `${groups.slice(0, 4).join(':')}::/64`
}

/** Addresses and networks such as `10.0.0.0/8`. */
export class AddressList {
  readonly #list = new BlockList()

  constructor(entries: readonly string[]) {
    for (const entry of entries) {
      const [address = '', bits] = entry.split('/')
      const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
      if (bits === undefined) this.#list.addAddress(address, family)
      else this.#list.addSubnet(address, Number(bits), family)
    }
  }

  has(address: string): boolean {
    const version = isIP(address)
    return version !== 0 && this.#list.check(address, version === 6 ? 'ipv6' : 'ipv4')
  }
}

export class Connections {
  readonly #limits: Pick<ServerLimits, 'connections' | 'connectionsPerAddress' | 'perConnection'>
  readonly #proxies: AddressList
  readonly #byNetwork = new Map<string, number>()
  readonly #underWay = new WeakMap<Socket, number>()
  #open = 0

  /** @param proxies whose connections are many clients'. */
  constructor(
    limits: Pick<ServerLimits, 'connections' | 'connectionsPerAddress' | 'perConnection'>,
    proxies: AddressList,
  ) {
    this.#limits = limits
    this.#proxies = proxies
  }

  get open(): number {
    return this.#open
  }

  /**
   * Counts a connection until it closes.
   *
   * @throws {GorgonError} ERR_CONNECTIONS; then it is not counted.
   */
  enter(socket: Socket): void {
    const { connections, connectionsPerAddress } = this.#limits
    if (this.#open >= connections) {
      throw new GorgonError(
        'ERR_CONNECTIONS',
        `The server has ${this.#open} connections, and takes ${connections} (limits.connections). Try again later.`,
        { status: 503, connections },
      )
    }
    const address = plainAddress(socket.remoteAddress)
    const network = this.#proxies.has(address) ? null : networkOf(address)
    const here = network === null ? 0 : (this.#byNetwork.get(network) ?? 0)
    if (here >= connectionsPerAddress) {
      throw new GorgonError(
        'ERR_CONNECTIONS',
        `There are ${here} connections from ${network}, and ${connectionsPerAddress} are allowed (limits.connectionsPerAddress). Close some.`,
        { connectionsPerAddress },
      )
    }
    this.#open++
    if (network !== null) this.#byNetwork.set(network, here + 1)
    socket.once('close', () => {
      this.#open--
      if (network === null) return
      const left = this.#byNetwork.get(network)! - 1
      if (left === 0) this.#byNetwork.delete(network)
      else this.#byNetwork.set(network, left)
    })
  }

  /** Whether requests of this connection are under way. */
  isBusy(socket: Socket): boolean {
    return (this.#underWay.get(socket) ?? 0) > 0
  }

  /**
   * Counts a request of a connection; what it returns ends it.
   *
   * @throws {GorgonError} ERR_CONNECTIONS when a client sends request upon request without reading the answers.
   */
  begin(socket: Socket): () => void {
    const { perConnection } = this.#limits
    const running = this.#underWay.get(socket) ?? 0
    if (running >= perConnection) {
      throw new GorgonError(
        'ERR_CONNECTIONS',
        `This connection has ${running} requests under way, and may have ${perConnection} (limits.perConnection). Read the answers first.`,
        { perConnection },
      )
    }
    this.#underWay.set(socket, running + 1)
    return () => this.#underWay.set(socket, this.#underWay.get(socket)! - 1)
  }
}
