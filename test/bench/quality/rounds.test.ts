// Asking many questions: order, how many at once, running out of time, failing.
import { describe, expect, it } from 'vitest'
import { type RoundOptions, runRounds } from '../../../bench/quality/rounds.js'

interface Case {
  id: string
  promptTokens: number
}
const ARMS = ['a', 'b']
const one = (id: string, promptTokens: number): Case => ({ id, promptTokens })
const alone: RoundOptions = { concurrency: 1, limitMs: Number.POSITIVE_INFINITY }

describe('runRounds', () => {
  it('asks the longest of a round first, all arms of a case together, and answers in the order of the rounds', async () => {
    const order: string[] = []
    const asked = await runRounds(
      [[one('short', 1), one('long', 9)], [one('last', 5)]],
      ARMS,
      async (of, arm) => {
        order.push(of.id + arm)
        return `${of.id}-${arm}`
      },
      alone,
    )
    expect(order).toEqual(['longa', 'longb', 'shorta', 'shortb', 'lasta', 'lastb'])
    expect(asked.map((place) => [place.case.id, ...place.answers])).toEqual([
      ['short', 'short-a', 'short-b'],
      ['long', 'long-a', 'long-b'],
      ['last', 'last-a', 'last-b'],
    ])
  })

  it('asks as many at once as it may, each once', async () => {
    let now = 0
    let most = 0
    const seen = new Set<string>()
    const cases = Array.from({ length: 10 }, (_, i) => one(`c${i}`, i))
    let told = 0
    await runRounds(
      [cases.slice(0, 5), cases.slice(5)],
      ARMS,
      async (of, arm) => {
        expect(seen.has(of.id + arm)).toBe(false)
        seen.add(of.id + arm)
        most = Math.max(most, ++now)
        await new Promise((done) => setTimeout(done, 2))
        now--
      },
      { ...alone, concurrency: 4, onAnswer: (answered) => (told = answered) },
    )
    expect([most, seen.size, told]).toEqual([4, 20, 20])
  })

  it('makes rounds as they are needed', async () => {
    let made = 0
    async function* rounds() {
      for (; made < 100; made++) yield [one(`${made}`, 1)]
    }
    await runRounds(rounds(), ARMS, async () => expect(made).toBeLessThan(100), alone)
    expect(made).toBe(100)
  })

  it('begins no round that would end too late, and always the first', async () => {
    const run = async (limitMs: number) => {
      let clock = 0
      const rounds = Array.from({ length: 10 }, (_, i) => [one(`r${i}`, 1)])
      const ask = async () => {
        clock += 10
      }
      return (await runRounds(rounds, ARMS, ask, { ...alone, limitMs, now: () => clock })).length
    }
    // A round is two questions of 10 ms.
    expect(await run(0)).toBe(1)
    expect(await run(59)).toBe(2)
    expect(await run(60)).toBe(3)
    expect(await run(1e9)).toBe(10)
  })

  it('stops at the first failure, with nobody still asking', async () => {
    let running = 0
    let asked = 0
    const rounds = [Array.from({ length: 50 }, (_, i) => one(`${i}`, 50 - i))]
    const failing = runRounds(
      rounds,
      ARMS,
      async (of) => {
        running++
        asked++
        await new Promise((done) => setTimeout(done, 1))
        running--
        if (of.id === '2') throw new Error('no answer')
      },
      { ...alone, concurrency: 3 },
    )
    await expect(failing).rejects.toThrow('no answer')
    expect(running).toBe(0)
    expect(asked).toBeLessThan(15)
  })
})
