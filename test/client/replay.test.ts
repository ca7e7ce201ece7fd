// What a response made again delivers after what was delivered before: exactly the rest, however either was cut into chunks.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Delta, Span } from '../../src/client/generation.js'
import { Differs, Replay } from '../../src/client/replay.js'

/** Tokens as texts; steps of so many tokens, deltas of so many steps. */
interface Run {
  readonly steps: readonly number[]
  readonly deltas: readonly number[]
}

/** Consumes `sizes`, over and over, until all is taken. */
function cut<T>(items: readonly T[], sizes: readonly number[]): T[][] {
  const parts: T[][] = []
  for (let at = 0, i = 0; at < items.length; i++) {
    const size = sizes[i % sizes.length]!
    parts.push(items.slice(at, at + size))
    at += size
  }
  return parts
}

function deltasOf(tokens: readonly string[], { steps, deltas }: Run): Delta[] {
  const numbered = tokens.map((text, id) => ({ text, id }))
  const stepped = cut(numbered, steps).map((step, number) => ({ step, number }))
  return cut(stepped, deltas).map((group, i) => {
    const all = group.flatMap(({ step }) => step)
    return {
      type: 'delta',
      id: 'r1',
      seq: i + 1,
      text: all.map(({ text }) => text).join(''),
      n: all.length,
      drafted: all.length - group.length,
      at: i,
      spans: group.map(({ step, number }) => ({ step: number, chars: step.map(({ text }) => text.length) })),
      ids: all.map(({ id }) => id),
      logprobs: all.map(({ id, text }) => ({ id, token: text, logprob: -1, top: [] })),
    }
  })
}

const deliveredBy = (deltas: readonly Delta[]) => ({
  text: deltas.map(({ text }) => text).join(''),
  tokens: deltas.reduce((sum, { n }) => sum + n, 0),
  ids: deltas.flatMap(({ ids }) => ids ?? []),
})

/** Texts of tokens by their ids, and the depth each was drafted at. */
function painted(spans: readonly Span[], text: string): { text: string; depth: number }[] {
  let at = 0
  return spans.flatMap(({ chars }) =>
    chars.map((length, depth) => {
      const piece = { text: text.slice(at, at + length), depth }
      at += length
      return piece
    }),
  )
}

const tokens = fc.array(fc.string({ maxLength: 3 }), { minLength: 1, maxLength: 30 })
const sizes = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 5 })
const run = fc.record({ steps: sizes, deltas: sizes })

describe('a replay', () => {
  it('adds exactly what was missing, for any two ways to cut the same tokens into steps and chunks', () => {
    fc.assert(
      fc.property(tokens, run, run, fc.nat(), (texts, first, second, broken) => {
        const before = deltasOf(texts, first)
        const delivered = deliveredBy(before.slice(0, broken % (before.length + 1)))
        const replay = new Replay(delivered)
        const fresh: Delta[] = []
        for (const delta of deltasOf(texts, second)) {
          const rest = replay.isOver ? delta : replay.next(delta)
          if (rest) fresh.push(rest)
        }
        expect(replay.isOver).toBe(true)
        expect(delivered.text + deliveredBy(fresh).text).toBe(texts.join(''))
        expect([...delivered.ids, ...deliveredBy(fresh).ids]).toEqual(texts.map((_, id) => id))
        expect(delivered.tokens + deliveredBy(fresh).tokens).toBe(texts.length)
      }),
    )
  })

  it('keeps each token’s depth, and counts as drafted what was', () => {
    fc.assert(
      fc.property(tokens, run, run, fc.nat(), (texts, first, second, broken) => {
        const before = deltasOf(texts, first)
        const delivered = deliveredBy(before.slice(0, broken % (before.length + 1)))
        const replay = new Replay(delivered)
        const again = deltasOf(texts, second)
        const depths = again.flatMap(({ spans, text }) => painted(spans!, text)).map(({ depth }) => depth)
        const fresh = again.flatMap((delta) => (replay.isOver ? delta : (replay.next(delta) ?? [])))
        const freshDepths = depths.slice(delivered.tokens)
        const shown = fresh.flatMap(({ spans, text }) => painted(spans!, text)).filter(({ text }) => text !== '')
        const expected = texts.slice(delivered.tokens).map((text, i) => ({ text, depth: freshDepths[i]! }))
        expect(shown).toEqual(expected.filter(({ text }) => text !== ''))
        expect(fresh.reduce((sum, { drafted }) => sum + drafted, 0)).toBe(freshDepths.filter((d) => d > 0).length)
        expect(fresh.flatMap(({ logprobs }) => logprobs!.map(({ id }) => id))).toEqual(fresh.flatMap(({ ids }) => ids!))
      }),
    )
  })

  it('finds any other text, and says where', () => {
    fc.assert(
      fc.property(tokens, run, run, fc.nat(), (texts, first, second, spoiled) => {
        const delivered = deliveredBy(deltasOf(texts, first))
        fc.pre(delivered.text !== '')
        const index = spoiled % delivered.text.length
        const other = delivered.text[index] === 'x' ? 'y' : 'x'
        const wrong = { ...delivered, text: delivered.text.slice(0, index) + other + delivered.text.slice(index + 1) }
        const replay = new Replay(wrong)
        let found: unknown
        try {
          for (const delta of deltasOf(texts, second)) if (!replay.isOver) replay.next(delta)
        } catch (error) {
          found = error
        }
        expect(found).toBeInstanceOf(Differs)
        expect(found).toMatchObject({ index })
      }),
    )
  })

  it('is over at once when nothing was delivered', () => {
    expect(new Replay({ text: '', tokens: 0, ids: null }).isOver).toBe(true)
  })

  it('knows nothing of depth where the server was not asked for it', () => {
    const replay = new Replay({ text: 'a', tokens: 1, ids: null })
    const delta = { type: 'delta', id: 'r1', seq: 1, text: 'abc', n: 3, drafted: 2, at: 0 } as const
    expect(replay.next(delta)).toEqual({ ...delta, text: 'bc', n: 2, drafted: 2 })
  })
})
