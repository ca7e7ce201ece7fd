// Token ids to text in increments, holding back characters whose bytes have not all come.

/** A token's text as the vocabulary spells it. */
export interface VocabularyEntry {
  readonly token: string
  /** Added to the vocabulary as plain text, not in the model's spelling. */
  readonly added: boolean
  readonly special: boolean
}

export interface DetokenizerOptions {
  /** Leave special tokens out of the text. Default true. */
  readonly skipSpecial?: boolean
  /**
   * The tokens go on from a text rather than begin one. SentencePiece-style vocabularies write a space before the first word of a text,
   * which decoding takes away; in a continuation that space separates words and stays. Byte-level vocabularies know no difference.
   * Default false.
   */
  readonly continuation?: boolean
}

/** What one token adds to a text. */
interface Piece {
  readonly bytes: Uint8Array
  /** The bytes as text, if they are whole characters. */
  readonly text: string | null
}

/** What `decoder` of a tokenizer.json does, taken apart into what happens to one token and what happens to the text. */
interface DecoderPlan {
  /** Bytes of a token that is the text's first, and of one that is not. */
  bytesOf(entry: VocabularyEntry, first: boolean): Uint8Array
  readonly strip: LeadingStrip
}

/** What is taken from the start of a text: up to `count` times the character `content`. */
interface LeadingStrip {
  readonly content: string
  readonly count: number
}

const NO_BYTES = new Uint8Array(0)

const utf8 = new TextEncoder()
// The byte order mark is a character like any other: a token may be it.
const lossy = new TextDecoder('utf-8', { ignoreBOM: true })

/**
 * The pieces of a vocabulary: decodes one token at a time, each once. Shared by the detokenizers of a tokenizer.
 *
 * Equal to the reference implementation but for one thing: where byte tokens (`<0xE2>`) make broken UTF-8, that one replaces every byte
 * of the whole run, good characters included, which no stream could do; here only what is broken becomes U+FFFD.
 */
export class Pieces {
  readonly #entryOf: (id: number) => VocabularyEntry | null
  readonly #plan: DecoderPlan
  readonly #later: (Piece | undefined)[] = []

  /**
   * @param decoder `decoder` of a tokenizer.json
   * @throws {Error} with a reason when it has a step that cannot be done in increments or is not known.
   */
  constructor(entryOf: (id: number) => VocabularyEntry | null, decoder: unknown) {
    this.#entryOf = entryOf
    this.#plan = planDecoder(decoder)
  }

  get strip(): LeadingStrip {
    return this.#plan.strip
  }

  isSpecial(id: number): boolean {
    return this.#entryOf(id)?.special ?? false
  }

  /** What a token adds to a text; null when it is not in the vocabulary, as models may have more ids than their tokenizer. */
  piece(id: number, first: boolean): Piece | null {
    const known = first ? undefined : this.#later[id]
    if (known !== undefined) return known
    const entry = this.#entryOf(id)
    if (entry === null) return null
    const bytes = this.#plan.bytesOf(entry, first)
    const text = lossy.decode(bytes)
    const piece = { bytes, text: text.includes('\uFFFD') ? null : text }
    if (!first) this.#later[id] = piece
    return piece
  }
}

/** Turns tokens into text as they come. Pieces joined equal the text decoded at once, however the tokens were split. */
export class Detokenizer {
  readonly #pieces: Pieces
  readonly #skipSpecial: boolean
  #first: boolean
  /** How many times `strip.content` may still be taken from the text's start. */
  #strips: number
  /** Up to three bytes: a character begun but not complete. */
  #pending: Uint8Array = NO_BYTES

  constructor(pieces: Pieces, { skipSpecial = true, continuation = false }: DetokenizerOptions = {}) {
    this.#pieces = pieces
    this.#skipSpecial = skipSpecial
    this.#first = !continuation
    this.#strips = continuation ? 0 : pieces.strip.count
  }

  /** The text this token completes; often its own, empty while a character is incomplete. */
  push(id: number): string {
    if (this.#skipSpecial && this.#pieces.isSpecial(id)) return ''
    const piece = this.#pieces.piece(id, this.#first)
    if (piece === null) return ''
    this.#first = false
    const { bytes, text } = piece
    if (text !== null && this.#pending.length === 0) return this.#start(text)
    const joined = new Uint8Array(this.#pending.length + bytes.length)
    joined.set(this.#pending)
    joined.set(bytes, this.#pending.length)
    const whole = joined.length - incompleteTail(joined)
    this.#pending = joined.subarray(whole)
    return this.#start(lossy.decode(joined.subarray(0, whole)))
  }

  /** Ends the text: an incomplete character becomes U+FFFD. */
  flush(): string {
    const rest = this.#start(lossy.decode(this.#pending))
    this.#pending = NO_BYTES
    return rest
  }

  #start(text: string): string {
    const { content } = this.#pieces.strip
    let from = 0
    while (this.#strips > 0 && from < text.length) {
      if (!text.startsWith(content, from)) this.#strips = 0
      else {
        this.#strips--
        from += content.length
      }
    }
    return from === 0 ? text : text.slice(from)
  }
}

/** How many bytes at the end are the start of one UTF-8 character and could still become one. */
function incompleteTail(bytes: Uint8Array): number {
  for (let length = 1; length <= Math.min(3, bytes.length); length++) {
    const lead = bytes[bytes.length - length]!
    if (lead < 0x80) return 0
    if (lead < 0xc0) continue
    const needed = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2
    if (lead < 0xc2 || lead > 0xf4 || length >= needed) return 0
    if (length === 1) return 1
    // After four leads the second byte has a narrower range: no overlong forms, no surrogates, nothing past U+10FFFF.
    const second = bytes[bytes.length - length + 1]!
    const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
    const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
    return second >= lowest && second <= highest ? length : 0
  }
  return 0
}

/** Byte b of a byte-level vocabulary is spelled as the character at b: itself if printable, else one of those from U+0100 on. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = byteOfCharacter()

function byteOfCharacter(): Map<string, number> {
  const bytes = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    bytes.set(String.fromCodePoint(printable ? byte : next++), byte)
  }
  return bytes
}

function byteLevel(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character)
    if (byte === undefined) return utf8.encode(token)
    bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/

/** A step as the file gives it: a type and that type's settings. */
interface Step {
  readonly type: string
  readonly decoders?: unknown
  readonly pattern?: unknown
  readonly replacement?: unknown
  readonly prepend_scheme?: unknown
  readonly add_prefix_space?: unknown
  readonly content?: unknown
  readonly start?: unknown
  readonly stop?: unknown
}

const KNOWN_STEPS = ['ByteFallback', 'ByteLevel', 'Fuse', 'Metaspace', 'Replace', 'Sequence', 'Strip']

function planDecoder(decoder: unknown): DecoderPlan {
  const steps = decoder === null ? [] : flatten(decoder)
  const toText: ((token: string, first: boolean) => string)[] = []
  let bytesAfter: number | null = null
  let byteLevelLast = false
  let fused = false
  let strip: LeadingStrip = { content: '', count: 0 }

  for (const step of steps) {
    if (byteLevelLast && step.type !== 'Fuse') throw new Error(`decoder ${step.type} after ByteLevel is not supported`)
    if (fused && step.type !== 'Strip' && step.type !== 'Fuse')
      throw new Error(`decoder ${step.type} after Fuse is not supported`)
    switch (step.type) {
      case 'ByteFallback':
        bytesAfter ??= toText.length
        break
      case 'ByteLevel':
        byteLevelLast = true
        break
      case 'Fuse':
        fused = true
        break
      case 'Metaspace':
        toText.push(metaspace(step))
        break
      case 'Replace':
        toText.push(replace(step))
        break
      case 'Strip': {
        const { content, start, stop } = stripSettings(step)
        if (!fused) toText.push((token) => stripEnds(token, content, start, stop))
        else if (stop > 0) throw new Error('decoder Strip at the end of a text is not supported')
        else if (strip.count > 0) throw new Error('decoder Strip twice after Fuse is not supported')
        else strip = { content, count: start }
      }
    }
  }
  // Without a decoder tokens are words.
  if (decoder === null) toText.push((token, first) => (first ? token : ` ${token}`))

  return {
    strip,
    bytesOf({ token, added }, first) {
      let text = token
      for (const [index, step] of toText.entries()) {
        if (index === bytesAfter && BYTE_TOKEN.test(text)) break
        text = step(text, first)
      }
      const byte = bytesAfter === null ? null : BYTE_TOKEN.exec(text)
      if (byte !== null) return Uint8Array.of(Number.parseInt(byte[1]!, 16))
      return byteLevelLast && !added ? byteLevel(text) : utf8.encode(text)
    },
  }
}

function flatten(decoder: unknown): Step[] {
  const step = decoder as Step | null | undefined
  if (step == null || !KNOWN_STEPS.includes(step.type)) {
    throw new Error(`decoder ${JSON.stringify(step?.type)} is not supported; these are: ${KNOWN_STEPS.join(', ')}`)
  }
  if (step.type !== 'Sequence') return [step]
  const inner = step.decoders
  if (!Array.isArray(inner)) throw new Error('decoder.decoders is not a list')
  return inner.flatMap(flatten)
}

function metaspace(step: Step): (token: string, first: boolean) => string {
  const replacement = typeof step.replacement === 'string' && step.replacement !== '' ? step.replacement : '\u2581'
  const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always')
  // The first token loses all of its separators, as the reference implementation has it.
  return (token, first) => token.replaceAll(replacement, first && scheme !== 'never' ? '' : ' ')
}

function replace({ pattern, content }: Step): (token: string) => string {
  const from = (pattern as { String?: unknown } | null | undefined)?.String
  if (typeof from !== 'string' || typeof content !== 'string') {
    throw new Error(`decoder Replace of the pattern ${JSON.stringify(pattern)} is not supported: only of a String`)
  }
  return (token) => token.replaceAll(from, () => content)
}

function stripSettings(step: Step): { content: string; start: number; stop: number } {
  const { content, start, stop } = step as { content?: unknown; start?: unknown; stop?: unknown }
  const isCount = (value: unknown): value is number =>
    typeof value === 'number' && Number.isInteger(value) && value >= 0
  if (typeof content === 'string' && [...content].length === 1 && isCount(start) && isCount(stop))
    return { content, start, stop }
  throw new Error(
    `decoder Strip has the settings ${JSON.stringify({ content, start, stop })}: content is one character`,
  )
}

function stripEnds(token: string, content: string, start: number, stop: number): string {
  let from = 0
  let to = token.length
  for (let count = 0; count < start && token.startsWith(content, from); count++) from += content.length
  for (let count = 0; count < stop && to > from && token.endsWith(content, to); count++) to -= content.length
  return token.slice(from, to)
}
