// Connections over a scripted intake and sockets without a network.
import { GorgonError } from '../../src/errors.js'
import { Connection, type ConnectionHost } from '../../src/server/connection.js'
import { Detached } from '../../src/server/detached.js'
import type { ClientFrameInput } from '../../src/server/protocol.js'
import { countingReaders } from './counting-readers.js'
import { FakePeerSocket } from './peer-socket.js'
import { ScriptedIntake } from './scripted-intake.js'

export const LIMITS = {
  messageBytes: 64 * 1024,
  perConnection: 4,
  helloMs: 1000,
  heartbeatMs: 20_000,
  idleMs: 5000,
  resumeMs: 3000,
  stallMs: 2000,
}

/** All that has to happen happens: everything there is here takes microtasks, and a turn now and then. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

export interface ScriptedPeer {
  readonly connection: Connection
  readonly socket: FakePeerSocket
  say(...frames: ClientFrameInput[]): void
}

export function scriptedServer(limits: Partial<typeof LIMITS> = {}) {
  const intake = new ScriptedIntake()
  const detached = new Detached({ ...LIMITS, ...limits })
  const { counts, readers } = countingReaders()
  const host: ConnectionHost = {
    intake,
    limits: { ...LIMITS, ...limits },
    detached,
    readers,
    server: 'scripted/1',
  }

  /** A connection; `hello` is said unless it is null. */
  function connect({
    hello = {},
    who = 'somebody',
    key,
  }: {
    readonly hello?: object | null
    readonly who?: string
    readonly key?: string
  } = {}): ScriptedPeer {
    const socket = new FakePeerSocket()
    const principal = { id: who, maxPriority: 0 }
    const connection = new Connection(host, socket, {
      id: 'c',
      principal: key === undefined ? principal : null,
      identify: async (token) => {
        if (token !== key) throw new GorgonError('ERR_UNAUTHORIZED', 'The key is wrong.')
        return principal
      },
    })
    const say = (...frames: ClientFrameInput[]): void => {
      for (const frame of frames) connection.received(JSON.stringify(frame))
    }
    if (hello) say({ type: 'hello', ...hello })
    return { connection, socket, say }
  }

  return { intake, detached, counts, connect }
}
