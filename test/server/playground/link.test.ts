// The page's connection: which of several attempts counts.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { FakeNetwork, type FakeSocket } from '../../support/fake-socket.js'

/** The module's types need a browser's, which tests do not have. */
interface LinkModule {
  readonly Link: new (
    key: object,
    listener: {
      state(state: string): void
      models(): void
      failed(problem: { readonly message: string }): void
    },
  ) => { open(): Promise<void> }
}
const { Link } = await vi.importActual<LinkModule>('../../../src/server/playground/link.js')

const network = new FakeNetwork()

beforeEach(() => {
  network.reset()
  vi.useFakeTimers()
  vi.stubGlobal('WebSocket', network.WebSocket)
  vi.stubGlobal('location', { href: 'http://127.0.0.1:8080/' })
})
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

/** Of a server whose model is still loading. */
function welcomeWithoutModels(socket: FakeSocket): void {
  socket.open()
  socket.next('hello')
  socket.say({
    type: 'welcome',
    connection: 'c',
    server: 'gorgon/0',
    models: [],
    limits: { messageBytes: 100_000, perConnection: 8, idleMs: 300_000, resumeMs: 30_000 },
    heartbeatMs: 20_000,
  })
}

function openLink() {
  const states: string[] = []
  const link = new Link(
    {},
    {
      state: (state) => {
        states.push(state)
      },
      models: () => undefined,
      failed: ({ message }) => expect.unreachable(message),
    },
  )
  void link.open()
  return { link, states }
}

test('while no model is loaded it connects again each second', async () => {
  const { states } = openLink()
  welcomeWithoutModels(network.latest)
  await vi.advanceTimersByTimeAsync(1000)
  expect(network.sockets).toHaveLength(2)
  network.latest.welcome()
  await vi.advanceTimersByTimeAsync(10_000)
  expect(network.sockets).toHaveLength(2)
  expect(states.at(-1)).toBe('open')
})

test('opened anew while it waits for a model, it keeps the connection it has then', async () => {
  const { link, states } = openLink()
  welcomeWithoutModels(network.latest)
  await vi.advanceTimersByTimeAsync(500)
  expect(states.at(-1)).toBe('loading')
  // As when another key is given.
  void link.open()
  network.latest.welcome()
  await vi.advanceTimersByTimeAsync(10_000)
  expect(network.sockets).toHaveLength(2)
  expect(network.latest.closedWith).toBeNull()
  expect(states.at(-1)).toBe('open')
})
