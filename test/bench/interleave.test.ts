// Arms take turns.
import { expect, test } from 'vitest'
import { interleave } from '../../bench/support/interleave.js'

/** Arms that write down that they ran. */
function armsOf(...names: string[]) {
  const calls: string[] = []
  const arms = Object.fromEntries(
    names.map((name) => [
      name,
      async (round: number) => {
        calls.push(`${name}${round}`)
        return `${name}${round}`
      },
    ]),
  )
  return { arms, calls }
}

test('every other round goes backwards', async () => {
  const { arms, calls } = armsOf('a', 'b', 'c')
  await interleave(arms, { rounds: 3 })
  expect(calls).toEqual(['a0', 'b0', 'c0', 'c1', 'b1', 'a1', 'a2', 'b2', 'c2'])
})

test('samples of one round stand at one index; warming up leaves none', async () => {
  const { arms, calls } = armsOf('a', 'b')
  const seen: string[] = []
  const samples = await interleave(arms, {
    rounds: 2,
    warmup: 1,
    onSample: (arm, sample, round) => seen.push(`${arm} ${sample} ${round}`),
  })
  expect(calls).toHaveLength(6)
  expect(calls.slice(0, 2).toSorted()).toEqual(['a-1', 'b-1'])
  expect(samples).toEqual({ a: ['a0', 'a1'], b: ['b0', 'b1'] })
  expect(seen).toEqual(['a a0 0', 'b b0 0', 'b b1 1', 'a a1 1'])
})

test('a signal ends it between runs; what was done was told', async () => {
  const ending = new AbortController()
  const { arms } = armsOf('a', 'b')
  const seen: string[] = []
  const running = interleave(arms, {
    rounds: 9,
    signal: ending.signal,
    onSample: (arm, _, round) => {
      seen.push(`${arm}${round}`)
      if (round === 1) ending.abort(new Error('enough'))
    },
  })
  await expect(running).rejects.toThrow('enough')
  expect(seen).toEqual(['a0', 'b0', 'b1'])
})

test('an arm that fails fails the comparison', async () => {
  const arms = {
    a: () => 1,
    b: () => {
      throw new Error('broken arm')
    },
  }
  await expect(interleave(arms, { rounds: 1 })).rejects.toThrow('broken arm')
})
