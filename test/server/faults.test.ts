// What clients do to a server, by accident or on purpose: each request ends once, everything is released, the server lives.
import { expect, test } from 'vitest'
import { FAULTS, IMPATIENT } from '../../bench/server/fault-cases.js'
import { inflict } from '../../bench/server/faults.js'
import { marksOf } from '../../bench/server/marks.js'
import { runningServers } from '../support/server.js'

const start = runningServers({ limits: { maxSequences: 8, maxQueue: 64 } })

/** How the requests of each may end for those who asked; a number where it is always the same. */
const ENDS: Readonly<Record<string, Readonly<Record<string, number | 'any'>>>> = {
  'kill -9 of client processes': { killed: 4 },
  'half-open sockets': { 'closed 1006': 2 },
  // Who reads again too late finds the connection gone.
  'readers that stall': { 'closed 4499': 'any', 'closed 1006': 'any' },
  'readers that are slow': { length: 4 },
  // Closed in the middle of a burst, a socket may be reset under what still comes.
  'bad frames': {
    survived: 'any',
    'closed 1006': 'any',
    'closed 1007': 'any',
    'closed 4400': 'any',
    'closed 4409': 'any',
  },
  'ids in use': { 'closed 4409': 4 },
  // Some are done before anybody says cancel.
  'cancel storm': { aborted: 'any', length: 'any' },
  // Eight run, sixty-four wait.
  'full queue': { aborted: 72, ERR_QUEUE_FULL: 248 },
  'bodies and messages too large': { 'announced 413': 1, 'chunked 413': 1, 'message 1009': 1 },
}

test.each(FAULTS.map((one) => [one.name, one] as const))(
  '%s',
  async (name, { fault, limits = IMPATIENT, quickSize }) => {
    const { url, engine } = await start({ limits })
    const target = { url, marks: async () => marksOf(engine) }
    const { ends, slowCloses } = await inflict(target, fault(quickSize))
    expect(slowCloses).toBe(name === 'readers that stall' ? 1 : 0)
    const allowed = ENDS[name]!
    for (const [end, count] of Object.entries(ends)) {
      expect(allowed, end).toHaveProperty([end])
      if (allowed[end] !== 'any') expect(count, end).toBe(allowed[end])
    }
    expect(Object.keys(ends).length).toBeGreaterThan(0)
  },
)
