// `gorgon serve` told to stop while clients are at work.
import { expect, test } from 'vitest'
import { stopUnderLoad } from '../../../bench/server/stopping.js'

test('what ends in time ends, what does not is cut short, what comes too late is refused', async () => {
  const { requests, ended, ends, stopMs } = await stopUnderLoad({ model: 'demo', clients: 8, drainSeconds: 1 })
  expect(ended).toBe(requests)
  const { length = 0, aborted = 0, ...late } = ends
  // On a slow machine the short ones may not end in time either; the long ones never do.
  expect(aborted).toBeGreaterThanOrEqual(4)
  expect(length + aborted).toBe(8)
  expect(Object.keys(late).every((end) => ['ERR_DRAINING', 'closed 1001'].includes(end))).toBe(true)
  expect(stopMs).toBeGreaterThan(900)
})

test('a server that does not come up says why', async () => {
  const stopping = stopUnderLoad({ model: 'no-such-folder', clients: 1, drainSeconds: 1 })
  await expect(stopping).rejects.toThrow(/exit code 2: .*no-such-folder/)
})
