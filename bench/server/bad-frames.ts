// Frames that no client should send, made from those that it may: the same seed gives the same ones.
import type { ClientFrameInput } from '../../src/server/index.js'
import { Choices } from '../quality/random.js'

/** A message, whole or in fragments. */
export type BadFrame = string | Buffer | { readonly fragments: readonly string[] }

/** Every frame there is, with every field that it can have. Generations are short: what is tried is what they are asked with. */
const VALID: readonly ClientFrameInput[] = [
  { type: 'hello', client: 'fuzz/1', flow: 'credit', token: 'secret' },
  {
    type: 'generate',
    id: 'a',
    model: 'demo',
    input: 'x',
    options: { maxTokens: 2, temperature: 0.5, seed: 7, stop: ['y'], kv: { policy: 'full' }, priority: 1 },
    credit: 4,
    minIntervalMs: 1,
    provenance: true,
    ids: true,
    resumable: true,
  },
  { type: 'generate', id: 'b', input: [1, 2, 3], options: { maxTokens: 1 } },
  { type: 'generate', id: 'c', input: [{ role: 'user', content: 'x' }], options: { maxTokens: 1 }, session: 's' },
  { type: 'cancel', id: 'a' },
  { type: 'credit', id: 'a', chunks: 3 },
  { type: 'resume', id: 'a', token: 'guess', afterSeq: 0 },
  { type: 'session.open', session: 's', options: { kv: { budget: 64 } }, resumable: true },
  { type: 'session.resume', session: 's', token: 'guess' },
  { type: 'session.close', session: 's' },
  { type: 'ping', t: 1 },
]

/** Put in the place of anything. */
const ODD_VALUES: readonly string[] = [
  'null',
  'true',
  '-1',
  '0.5',
  '-0',
  '1e308',
  '1e309',
  '9007199254740993',
  '123456789012345678901234567890',
  '""',
  '"\\ud800"',
  '"\\u0000"',
  `"${'🦑'.repeat(64)}"`,
  `"${'x'.repeat(100_000)}"`,
  '[]',
  '{}',
  '[[[[[[]]]]]]',
  '{"__proto__":{"polluted":true}}',
  '{"constructor":{"prototype":{"polluted":true}}}',
  `${'['.repeat(5000)}${']'.repeat(5000)}`,
  `{"a":${'{"a":'.repeat(2000)}1${'}'.repeat(2000)}}`,
]

/** Written in the place of a character, or between two. */
const ODD_CHARACTERS = ['{', '}', '"', '\\', ',', ':', '\u0000', '\ud800', '\u2028', 'é', '🦑', '1', '-', 'e', ' ']

export class BadFrames {
  readonly #choices: Choices

  constructor(seed: string) {
    this.#choices = new Choices(seed)
  }

  next(): BadFrame {
    const choices = this.#choices
    const text = JSON.stringify(choices.pick(VALID))
    switch (choices.integer(0, 7)) {
      case 0:
        return this.#noise()
      case 1:
        return Buffer.from(text)
      case 2:
        return { fragments: this.#cut(text) }
      case 3:
        return text.slice(0, choices.integer(0, text.length))
      case 4:
        return this.#scribbled(text)
      case 5:
        return text.replace('"type":"', `"type":"${choices.pick(['', 'no.', '__proto__', 'constructor'])}`)
      case 6:
        return `${text.slice(0, -1)},"${choices.pick(['extra', '__proto__', 'toString', 'type'])}":${choices.pick(ODD_VALUES)}}`
      default:
        return this.#replaced(text)
    }
  }

  #noise(): string {
    return Array.from({ length: this.#choices.integer(0, 64) }, () =>
      String.fromCodePoint(this.#choices.integer(0, 0xd7ff)),
    ).join('')
  }

  #cut(text: string): string[] {
    const at = [this.#choices.integer(0, text.length), this.#choices.integer(0, text.length)].sort((a, b) => a - b)
    return [text.slice(0, at[0]), text.slice(at[0], at[1]), text.slice(at[1])]
  }

  #scribbled(text: string): string {
    const characters = [...text]
    for (let times = this.#choices.integer(1, 4); times > 0; times--) {
      const at = this.#choices.integer(0, characters.length - 1)
      characters.splice(at, this.#choices.integer(0, 1), this.#choices.pick(ODD_CHARACTERS))
    }
    return characters.join('')
  }

  /** A value of any field, at any depth, is another one. */
  #replaced(text: string): string {
    const fields = [...text.matchAll(/"[\w.]+":("[^"]*"|\d+(\.\d+)?|true|\[[^\]]*\])/g)]
    const field = this.#choices.pick(fields)
    const value = field[1]!
    const at = field.index + field[0].length - value.length
    return text.slice(0, at) + this.#choices.pick(ODD_VALUES) + text.slice(at + value.length)
  }
}
