import { describe, expect, it } from 'vitest'
import type { TokenLogprob } from '../../../src/index.js'
import { joinColumns, LogprobColumns, listedLogprobs } from '../../../src/server/openai/logprobs.js'

const bytesOf = (id: number): Uint8Array => Uint8Array.of(id)
const token = (id: number, text: string, logprob: number, top: TokenLogprob['top'] = []): TokenLogprob => ({
  id,
  token: text,
  logprob,
  top,
})

describe('a list of tokens', () => {
  it('has bytes, of the likeliest tokens as well', () => {
    const listed = listedLogprobs([token(65, 'A', -0.5, [{ id: 66, token: 'B', logprob: -0.25 }])], bytesOf)
    expect(listed).toEqual([
      { token: 'A', logprob: -0.5, bytes: [65], top_logprobs: [{ token: 'B', logprob: -0.25, bytes: [66] }] },
    ])
  })

  it('has a number where the probability is 0', () => {
    const [listed] = listedLogprobs([token(65, 'A', Number.NEGATIVE_INFINITY)], bytesOf)
    expect(JSON.parse(JSON.stringify(listed))).toMatchObject({ logprob: -9999 })
  })
})

describe('columns', () => {
  it('count offsets in characters, over chunks, also where a token brings none or two', () => {
    const columns = new LogprobColumns()
    const parts = [
      columns.of({ logprobs: [token(1, 'a', -1), token(2, '\uFFFD', -1)], pieces: ['a', ''] }),
      columns.of({ logprobs: [token(3, '\uFFFD', -1), token(4, 'b', -1)], pieces: ['😀', 'b'] }),
      columns.of({ logprobs: [token(5, 'c', -1)], pieces: ['c'] }),
    ]
    expect(joinColumns(parts)).toMatchObject({
      tokens: ['a', '\uFFFD', '\uFFFD', 'b', 'c'],
      text_offset: [0, 1, 1, 2, 3],
    })
  })

  it('have the chosen token among the likeliest, and of two that are spelled alike the likelier', () => {
    const top = [
      { id: 1, token: 'x', logprob: -0.1 },
      { id: 2, token: 'y', logprob: -1 },
      { id: 3, token: 'x', logprob: -2 },
    ]
    const { top_logprobs } = new LogprobColumns().of({ logprobs: [token(4, 'z', -3, top)], pieces: ['z'] })
    expect(top_logprobs).toEqual([{ x: -0.1, y: -1, z: -3 }])
  })

  it('hold tokens that are spelled as what objects have already', () => {
    const names = ['__proto__', 'constructor', 'toString']
    const { top_logprobs } = new LogprobColumns().of({
      logprobs: names.map((name, i) => token(i, name, -1)),
      pieces: names,
    })
    expect(top_logprobs.map((top) => Object.keys(top))).toEqual(names.map((name) => [name]))
  })
})
