// A needle in a haystack: one sentence with a number, somewhere in a long text that has nothing to do with it.
// Source: gkamradt/LLMTest_NeedleInAHaystack. Here the word and the number are drawn anew for every question, so that none is remembered.
import { readFile } from 'node:fs/promises'
import { GorgonError } from '../../src/index.js'
import { Choices } from './random.js'

/** What a needle is about: short, common words. */
const WORDS = (
  'anchor basket candle desert engine feather garden hammer island jacket kettle lantern marble needle orchard paper quarry ribbon saddle ' +
  'timber umbrella valley window yellow zebra bridge copper dragon falcon guitar harbor mirror ocean pepper rocket silver temple violin'
).split(' ')

export interface Needle {
  readonly word: string
  readonly number: number
  /** The sentence that is hidden. */
  readonly sentence: string
  /** What stands at the end of the prompt. */
  readonly question: string
}

export function needleOf(choices: Choices): Needle {
  const word = choices.pick(WORDS)
  const number = choices.integer(10_000, 99_999)
  return {
    word,
    number,
    sentence: `\nThe special magic number for ${word} is ${number}.\n`,
    question: `\nWhat is the special magic number for ${word}? The special magic number for ${word} is`,
  }
}

const SOURCE = 'Any long text will do, such as books from https://www.gutenberg.org: name it with --data.'

/**
 * @param file as `--data` names it.
 * @throws {GorgonError} ERR_OPTION when none is named, ERR_FILE when it cannot be read: the message says where texts are.
 */
export async function readHaystack(file: string | undefined): Promise<string> {
  if (file === undefined) throw new GorgonError('ERR_OPTION', `--data is missing. ${SOURCE}`, {})
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw new GorgonError('ERR_FILE', `There is no haystack at ${file}. ${SOURCE}`, { file }, error)
  }
}

/** Text and ids, both ways, without special tokens. */
export interface Encoder {
  encode(text: string): Promise<Int32Array>
  decode(ids: Iterable<number>): string
  /** Ids a prompt begins with. */
  readonly prefix: Int32Array
}

export interface NeedlePrompt {
  readonly tokens: Int32Array
  /** Tokens before the needle. */
  readonly at: number
  readonly expected: number
}

/** Characters that are enough for a token, with much to spare. */
const CHARACTERS_PER_TOKEN = 8

/**
 * A prompt of exactly `length` tokens: a piece of the haystack that begins anywhere, the needle after the last end of a sentence or line at
 * or before `depth` of it, and the question.
 *
 * @param depth 0 is the beginning, 1 the end.
 * @throws {GorgonError} ERR_FILE when the haystack is too short.
 */
export async function needlePrompt(
  haystack: string,
  { length, depth, seed }: { readonly length: number; readonly depth: number; readonly seed: string },
  encoder: Encoder,
): Promise<NeedlePrompt> {
  const choices = new Choices(seed)
  const needle = needleOf(choices)
  const sentence = await encoder.encode(needle.sentence)
  const question = await encoder.encode(needle.question)
  const room = length - encoder.prefix.length - sentence.length - question.length
  if (room < 0) {
    throw new GorgonError(
      'ERR_OPTION',
      `--lengths: ${length} tokens are fewer than the needle and the question take (${length - room}). Use longer prompts.`,
      { length },
    )
  }
  const characters = room * CHARACTERS_PER_TOKEN
  const begin = choices.integer(0, Math.max(0, haystack.length - characters))
  const hay = (await encoder.encode(haystack.slice(begin, begin + characters))).subarray(0, room)
  if (hay.length < room) {
    throw new GorgonError(
      'ERR_FILE',
      `The haystack has ${hay.length} tokens, ${room} are needed for a prompt of ${length}. Give a longer text with --data, or shorter prompts.`,
      { tokens: hay.length, needed: room },
    )
  }
  const at = sentenceEnd(hay, Math.round(depth * room), encoder)
  const before = encoder.prefix.length + at
  const tokens = Int32Array.of(...encoder.prefix, ...hay.subarray(0, at), ...sentence, ...hay.subarray(at), ...question)
  return { tokens, at: before, expected: needle.number }
}

/** Number of ids up to the last end of a sentence or line within the first `count`; 0 when there is none. */
function sentenceEnd(ids: Int32Array, count: number, encoder: Encoder): number {
  for (let end = count; end > 0; end--) {
    if (/[.!?\n]["”’)]*\s*$/.test(encoder.decode([ids[end - 1]!]))) return end
  }
  return 0
}

/** Where an answer ends. */
export const NEEDLE_STOP = ['.', '\n'] as const

/** Right when the first number of the output is the needle's. */
export function isRightNumber(output: string, expected: number): boolean {
  const first = /\d+/.exec(output)?.[0]
  return first !== undefined && Number(first) === expected
}
