// An engine that notes when its chunks were made.
import { describe, expect, test } from 'vitest'
import { lagsOf, sharedNow, watched } from '../../../bench/server/watched-engine.js'
import { toyEngines } from '../../support/toy-engine.js'

const open = toyEngines()
const OPTIONS = { maxTokens: 4, ignoreEos: true, speculation: { mode: 'off' } } as const

describe('a watched engine', () => {
  test('generates what the engine does, and notes when', async () => {
    const { engine } = open()
    const { engine: noting, begin, end } = watched(engine)
    const plain = await engine.generate([40, 41], OPTIONS)
    begin()
    const before = sharedNow()
    const generation = noting.generate([40, 41], OPTIONS)
    let text = ''
    for await (const chunk of generation) text += chunk.text
    expect((await generation).tokens).toEqual(plain.tokens)
    expect(text).toBe(plain.text)
    expect(noting.stats()).toEqual(engine.stats())

    const [made, ...more] = end()
    expect(more).toEqual([])
    expect(made!.prompt).toEqual([40, 41])
    expect(made!.atMs).toHaveLength(4)
    expect(made!.atMs.every((at, i) => at >= (made!.atMs[i - 1] ?? before) && at <= sharedNow())).toBe(true)
  })

  test('leaving the loop aborts, as it does without notes', async () => {
    const { engine } = open()
    const { engine: noting, begin, end } = watched(engine)
    begin()
    const generation = noting.generate([40], { ...OPTIONS, maxTokens: 1000, onAbort: 'return' })
    for await (const _ of generation) break
    expect((await generation).finish).toBe('aborted')
    expect(end()[0]!.atMs.length).toBeLessThan(1000)
  })

  test('notes nothing when nobody wants to know', async () => {
    const { engine } = open()
    const { engine: noting, begin, end } = watched(engine)
    await noting.generate([40], OPTIONS)
    begin()
    await noting.generate('text', OPTIONS)
    expect(end()).toEqual([])
    await noting.generate([40], OPTIONS)
    expect(end()).toEqual([])
  })
})

describe('the way of a chunk', () => {
  const made = [
    { prompt: [1], atMs: [10, 20] },
    { prompt: [2], atMs: [11] },
    { prompt: [1], atMs: [30, 40] },
  ]

  test('is from its making to its arrival; of one prompt, first asked is first made', () => {
    const answers = [
      { prompt: [1], arrivedMs: [11, 21.5] },
      { prompt: [1], arrivedMs: [32, 42] },
      { prompt: [2], arrivedMs: [11.25] },
    ]
    expect(lagsOf(answers, made)).toEqual([1, 1.5, 2, 2, 0.25])
  })

  test('is not known of chunks that were put together, or that nobody made', () => {
    const answers = [
      { prompt: [1], arrivedMs: [21] },
      { prompt: [3], arrivedMs: [5] },
      { prompt: [1], arrivedMs: [31, 41] },
    ]
    expect(lagsOf(answers, made)).toEqual([1, 1])
  })
})
