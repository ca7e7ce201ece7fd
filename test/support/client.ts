// What tests of the client share: a fake network under fake time, and a watch on rejections that nobody handles.
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { type Client, ClientError, type ConnectOptions, connect, type StateChange } from '../../src/client/browser.js'
import { FakeNetwork } from './fake-socket.js'

/** Longer than any delay between two attempts. */
export const LONG_MS = 6000

/** Fails the test in which a rejection goes unhandled. */
export function watchRejections(): void {
  const unhandled = vi.fn()
  beforeEach(() => {
    process.on('unhandledRejection', unhandled)
  })
  afterEach(async () => {
    await new Promise((resolve) => setImmediate(resolve))
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })
}

interface FakeClients {
  readonly network: FakeNetwork
  /** Of all clients of the test. */
  readonly changes: StateChange[]
  readonly open: (options?: ConnectOptions) => Client
}

/** For each test, a network without sockets and a clock that stands still. */
export function useFakeNetwork(): FakeClients {
  const network = new FakeNetwork()
  const changes: StateChange[] = []
  watchRejections()
  beforeEach(() => {
    vi.useFakeTimers()
    network.reset()
    changes.length = 0
  })
  afterEach(() => {
    vi.useRealTimers()
  })
  const open = (options: ConnectOptions = {}) =>
    connect('ws://test', { WebSocket: network.WebSocket, onState: (change) => changes.push(change), ...options })
  return { network, changes, open }
}

/** The error it rejects with. */
export async function rejection(promise: PromiseLike<unknown>): Promise<ClientError> {
  const error = await promise.then(
    () => null,
    (error: unknown) => error,
  )
  expect(error).toBeInstanceOf(ClientError)
  return error as ClientError
}
