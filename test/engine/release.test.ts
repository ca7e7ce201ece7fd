// What an abort gives back, and how soon: counted in calls of the native side, wherever in its life the generation is.
import { describe, expect, it } from 'vitest'
import type { GenerateOptions } from '../../src/index.js'
import { toyEngines } from '../support/toy-engine.js'

const open = toyEngines()
const ENDLESS: GenerateOptions = { maxTokens: 4000, ignoreEos: true, onAbort: 'return', speculation: { mode: 'off' } }
const LONG = new Array(1200).fill(7)

type Phase = 'prefill' | 'verify' | 'commit'

function opened() {
  const toy = open({ limits: { maxSequences: 2 }, toy: { chunk: 100 } })
  const { native } = toy
  /** Holds the next call of a phase that a session takes part in, from when `reached` until `goOn()`. */
  const hold = (phase: Phase, session: number) => {
    let goOn: () => void = () => undefined
    const held = new Promise<void>((resolve) => {
      goOn = resolve
    })
    const reached = new Promise<void>((resolve) => {
      native.onCall = async (call) => {
        if (call.phase !== phase || !call.sessions.includes(session)) return
        resolve()
        await held
      }
    })
    return { reached, goOn }
  }
  return { ...toy, hold }
}

describe('an abort frees everything', () => {
  it.each<Phase>(['prefill', 'verify', 'commit'])('with the %s that is being computed', async (phase) => {
    const { engine, native, hold } = opened()
    const call = hold(phase, 2)
    const other = engine.generate([5], { ...ENDLESS, maxTokens: 300 })
    const generation = engine.generate(LONG, ENDLESS)
    const waiting = [1, 2].map((id) => engine.generate([id], { maxTokens: 2, ignoreEos: true }))
    await call.reached
    const calls = native.calls.filter(({ sessions }) => sessions.includes(2)).length
    generation.abort()
    call.goOn()
    expect((await generation).finish).toBe('aborted')
    expect(native.calls.filter(({ sessions }) => sessions.includes(2))).toHaveLength(calls)
    expect(native.openSessions).toBeLessThanOrEqual(2)
    // Its place is another's.
    for (const { tokens } of await Promise.all(waiting)) expect(tokens).toHaveLength(2)
    expect((await other).tokens).toHaveLength(300)
  })

  it('at once where a prompt waits behind others', async () => {
    const { engine, native, hold } = opened()
    const call = hold('prefill', 1)
    const first = engine.generate(LONG, { ...ENDLESS, maxTokens: 2 })
    const second = engine.generate([...LONG, 8], { ...ENDLESS, onAbort: 'throw' })
    await call.reached
    expect(native.openSessions).toBe(2)
    second.abort('enough')
    await expect(second).rejects.toBe('enough')
    expect(native.openSessions).toBe(1)
    expect(engine.stats()).toMatchObject({ running: 1, prefilling: 1 })
    call.goOn()
    expect((await first).tokens).toHaveLength(2)
  })

  it('at once where a slow reader holds it up', async () => {
    const { engine, native } = opened()
    const parked = engine.generate([5], { ...ENDLESS, highWaterMark: 4 })
    const chunks = parked[Symbol.asyncIterator]()
    await chunks.next()
    for (let quiet = 0, seen = -1; quiet < 20; ) {
      quiet = native.calls.length === seen ? quiet + 1 : 0
      seen = native.calls.length
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(engine.stats()).toMatchObject({ running: 1, decoding: 1 })
    const calls = native.calls.length
    await chunks.return!()
    expect(native.calls).toHaveLength(calls)
    expect(engine.stats()).toMatchObject({ running: 0, decoding: 0, memory: { kv: 0 } })
    expect(native.openSessions).toBe(0)
  })

  it('at once in the queue', async () => {
    const { engine, hold } = opened()
    const call = hold('verify', 1)
    const running = [1, 2].map((id) => engine.generate([id], { ...ENDLESS, maxTokens: 20 }))
    const queued = engine.generate([3], ENDLESS)
    await call.reached
    queued.abort()
    expect((await queued).finish).toBe('aborted')
    expect(engine.stats()).toMatchObject({ running: 2, queued: 0 })
    call.goOn()
    await Promise.all(running)
  })
})
