// Counting connections by address, and requests by connection.
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { describe, expect, test } from 'vitest'
import { AddressList, Connections, networkOf, plainAddress } from '../../src/server/connections.js'
import { failure } from '../support/errors.js'

const socketOf = (remoteAddress: string) => Object.assign(new EventEmitter(), { remoteAddress }) as unknown as Socket
const LIMITS = { connections: 4, connectionsPerAddress: 2, perConnection: 2 }

test('an IPv4 address in an IPv6 socket is read as what it is', () => {
  expect(plainAddress('::ffff:10.1.2.3')).toBe('10.1.2.3')
  expect(plainAddress('2001:db8::1')).toBe('2001:db8::1')
  expect(plainAddress(undefined)).toBe('unknown')
})

test.each([
  ['10.1.2.3', '10.1.2.3'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8:1:2::', '2001:db8:1:2::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['unknown', 'unknown'],
])('%s is of the network %s', (address, network) => {
  expect(networkOf(address)).toBe(network)
})

test('a list holds addresses and networks of both families', () => {
  const list = new AddressList(['10.0.0.0/8', '192.168.1.1', '2001:db8::/32'])
  expect(['10.9.8.7', '192.168.1.1', '2001:db8:7::1'].map((address) => list.has(address))).toEqual([true, true, true])
  expect(['11.0.0.1', '192.168.1.2', '2001:db9::1', 'unknown'].some((address) => list.has(address))).toBe(false)
})

describe('connections', () => {
  test('from one address are bounded, until one closes', async () => {
    const connections = new Connections(LIMITS, new AddressList([]))
    const first = socketOf('10.0.0.1')
    connections.enter(first)
    connections.enter(socketOf('::ffff:10.0.0.1'))
    await failure(() => connections.enter(socketOf('10.0.0.1')), 'ERR_CONNECTIONS', /connectionsPerAddress/)
    connections.enter(socketOf('10.0.0.2'))
    first.emit('close')
    connections.enter(socketOf('10.0.0.1'))
    expect(connections.open).toBe(3)
  })

  test('in all are bounded, whoever they are from', async () => {
    const connections = new Connections(LIMITS, new AddressList([]))
    for (let i = 1; i <= 4; i++) connections.enter(socketOf(`10.0.0.${i}`))
    await failure(() => connections.enter(socketOf('10.0.0.9')), 'ERR_CONNECTIONS', /limits\.connections/)
    expect(connections.open).toBe(4)
  })

  test('from a proxy are not of one client', () => {
    const connections = new Connections(LIMITS, new AddressList(['10.0.0.1']))
    for (let i = 0; i < 4; i++) connections.enter(socketOf('10.0.0.1'))
    expect(connections.open).toBe(4)
  })

  test('have so many requests under way', async () => {
    const connections = new Connections(LIMITS, new AddressList([]))
    const socket = socketOf('10.0.0.1')
    expect(connections.isBusy(socket)).toBe(false)
    const end = connections.begin(socket)
    connections.begin(socket)
    await failure(() => connections.begin(socket), 'ERR_CONNECTIONS', /perConnection/)
    end()
    connections.begin(socket)
    expect(connections.isBusy(socket)).toBe(true)
  })
})
