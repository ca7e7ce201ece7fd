// Text to token ids by one tokenizer.json. Plain JavaScript, so that a worker thread runs this very file, from src as from dist.
import { Tokenizer } from '@huggingface/tokenizers'

/** Token ids above this are a broken file: tables are indexed by id, and the largest vocabularies in use have 2^18. */
const MAX_TOKEN_ID = 2 ** 24

/** SentencePiece's word separator, U+2581. */
const SEPARATOR = '\u2581'

/** How ByteLevel splits a text: contractions, words, numbers and other runs with the space before them, white space. */
const WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * Of each kind of component, the types whose ids equal the reference implementation's (the Rust package behind tokenizer.json). The
 * library knows more, but ignores some of their settings or approximates them: those would give wrong ids without a word.
 *
 * @type {Readonly<Record<'model' | 'normalizer' | 'pre_tokenizer' | 'post_processor', readonly string[]>>}
 */
const SUPPORTED = {
  model: ['BPE', 'Unigram'],
  normalizer: ['NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace', 'Sequence'],
  pre_tokenizer: ['ByteLevel', 'Digits', 'Metaspace', 'Split', 'Sequence'],
  post_processor: ['ByteLevel', 'TemplateProcessing', 'Sequence'],
}

/**
 * @typedef {any} Json an object as JSON.parse gave it; what is read of it is checked first
 *
 * @typedef {object} Vocabulary
 * @property {readonly (string | undefined)[]} tokens spelling by id; ids may have gaps
 * @property {(token: string) => number | undefined} idOf
 * @property {(id: number) => { readonly special: boolean } | undefined} addedToken a token added as plain text, if this is one
 *
 * @typedef {object} Encoder
 * @property {Vocabulary} vocabulary
 * @property {unknown} decoder `decoder` of the file, null if absent
 * @property {(text: string, addSpecial: boolean) => Int32Array} encode
 */

/**
 * An encoder for the text of a tokenizer.json, and what that file says about decoding.
 *
 * @param {string} json
 * @returns {Encoder}
 * @throws {Error} with a reason when the file is malformed, or needs a feature whose ids would be wrong.
 */
export function openEncoder(json) {
  const file = parse(json)
  // An empty configuration: everything the ids depend on is in tokenizer.json, as for the reference implementation.
  const library = new Tokenizer(prepare(file), {})
  const added = library.get_added_tokens_decoder()
  return {
    vocabulary: {
      tokens: library.model?.vocab ?? [],
      idOf: (token) => library.token_to_id(token),
      addedToken: (id) => added.get(id),
    },
    decoder: file.decoder ?? null,
    encode(text, addSpecial) {
      /** @type {readonly (number | null | undefined)[]} */
      const ids = library.encode(text, { add_special_tokens: addSpecial }).ids
      const out = new Int32Array(ids.length)
      for (const [index, id] of ids.entries()) {
        if (id == null) throw new Error('part of it has no token id, and the vocabulary has no unknown token')
        out[index] = id
      }
      return out
    },
  }
}

/**
 * @param {string} json
 * @returns {Json}
 */
function parse(json) {
  /** @type {unknown} */
  let file
  try {
    file = JSON.parse(json)
  } catch (error) {
    throw new Error(`not JSON (${error instanceof Error ? error.message : error})`)
  }
  return object(file, 'the file')
}

/**
 * The file checked, with its optional parts filled in, and rewritten where the library reads a setting otherwise than it is meant.
 *
 * @param {Json} file
 * @returns {Json}
 */
function prepare(file) {
  const model = object(file.model, 'model')
  checkModel(model)
  return {
    ...file,
    model,
    added_tokens: addedTokens(file.added_tokens),
    normalizer: component(file.normalizer, 'normalizer', 'normalizers'),
    pre_tokenizer: splitAtSeparators(component(file.pre_tokenizer, 'pre_tokenizer', 'pretokenizers'), model),
    post_processor: component(file.post_processor, 'post_processor', 'processors'),
    // The detokenizer reads the decoder itself.
    decoder: null,
  }
}

/** @param {Json} model */
function checkModel(model) {
  // Files of the first versions of the format name no type.
  model.type ??= Array.isArray(model.vocab) ? 'Unigram' : 'merges' in model ? 'BPE' : undefined
  supported(model, 'model')
  if (model.type === 'Unigram') {
    if (!Array.isArray(model.vocab) || model.vocab.length === 0) throw new Error('model.vocab is not a list of pieces')
    for (const piece of model.vocab) {
      if (!Array.isArray(piece) || typeof piece[0] !== 'string' || typeof piece[1] !== 'number') {
        throw new Error(`model.vocab has the entry ${show(piece)} where a [piece, score] pair belongs`)
      }
    }
    if (model.byte_fallback) throw new Error('model.byte_fallback is not supported for Unigram')
    return
  }
  for (const [token, id] of Object.entries(object(model.vocab, 'model.vocab'))) checkId(id, token)
  if (!Array.isArray(model.merges)) throw new Error('model.merges is not a list')
  for (const merge of model.merges) {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string' || typeof pair[1] !== 'string') {
      throw new Error(`model.merges has the entry ${show(merge)} where a pair of tokens belongs`)
    }
  }
  if (model.continuing_subword_prefix) throw new Error('model.continuing_subword_prefix is not supported for BPE')
}

/**
 * @param {unknown} value
 * @returns {Json[]}
 */
function addedTokens(value) {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw new Error('added_tokens is not a list')
  return value.map((entry) => {
    const token = object(entry, 'an entry of added_tokens')
    if (typeof token.content !== 'string' || token.content === '') {
      throw new Error(`added_tokens has the content ${show(token.content)} where a text belongs`)
    }
    checkId(token.id, token.content)
    if (token.single_word) throw new Error(`added token ${show(token.content)}: single_word is not supported`)
    return token
  })
}

/**
 * A component and the steps of its sequences, each a supported one.
 *
 * @param {unknown} value
 * @param {'normalizer' | 'pre_tokenizer' | 'post_processor'} kind
 * @param {string} steps the key under which a Sequence of this kind lists its steps
 * @returns {Json | null}
 */
function component(value, kind, steps) {
  if (value === undefined || value === null) return null
  const step = object(value, kind)
  supported(step, kind)
  if (step.type === 'Sequence') {
    if (!Array.isArray(step[steps])) throw new Error(`${kind}.${steps} is not a list`)
    return { ...step, [steps]: step[steps].map((inner) => component(inner, kind, steps)) }
  }
  switch (step.type) {
    case 'ByteLevel':
      return kind === 'pre_tokenizer' ? byteLevel(step) : step
    case 'Digits':
      // The library takes ASCII digits alone; the format means every number character.
      return split(step.individual_digits ? '\\p{N}' : '\\p{N}+')
    case 'Metaspace':
      return metaspace(step)
    case 'Split':
      // Of the library's behaviors only these two are the format's.
      if (!(step.behavior === 'Isolated' && !step.invert) && !(step.behavior === 'Removed' && step.invert)) {
        throw new Error(
          `${kind} Split with behavior ${show(step.behavior)}, invert ${show(step.invert)} is not supported`,
        )
      }
      return step
    case 'TemplateProcessing':
      checkTemplate(step)
      return step
    default:
      return step
  }
}

/**
 * ByteLevel with its own steps spelled out: the library's white space is JavaScript's, not the format's.
 *
 * @param {Json} step
 * @returns {Json}
 */
function byteLevel(step) {
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
  // A zero-width match at the start would also match inside a surrogate pair there.
  const prefix = { type: 'Replace', pattern: { Regex: '\\A[^ ]' }, content: ' $&' }
  const pretokenizers = [
    ...((step.add_prefix_space ?? true) ? [prefix] : []),
    ...((step.use_regex ?? true) ? [split(WORDS)] : []),
    bytes,
  ]
  return { type: 'Sequence', pretokenizers }
}

/**
 * Metaspace under the format's older setting too, and with the split it does by default.
 *
 * @param {Json} step
 * @returns {Json}
 */
function metaspace(step) {
  const replacement = step.replacement ?? SEPARATOR
  if (typeof replacement !== 'string' || [...replacement].length !== 1) {
    throw new Error(`Metaspace has the replacement ${show(replacement)} where one character belongs`)
  }
  const prepend_scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always')
  const prepend = { type: 'Metaspace', replacement, prepend_scheme }
  if (step.split === false) return prepend
  const mark = literal(replacement)
  return { type: 'Sequence', pretokenizers: [prepend, split(`${mark}[^${mark}]*|[^${mark}]+`)] }
}

/**
 * Without a pre-tokenizer, or with one that does not split, BPE sees a whole text as one word: slow, and nothing to remember of one
 * text for the next. Where no merge joins anything to a separator after it, no merge ever crosses from one word to the next, so words
 * can be encoded one by one: the same ids, measured 6 times as fast on a megabyte of code (1.0 s, not 6.2 s).
 *
 * @param {Json | null} preTokenizer
 * @param {Json} model
 * @returns {Json | null}
 */
function splitAtSeparators(preTokenizer, model) {
  const whole = preTokenizer === null || (preTokenizer.type === 'Metaspace' && preTokenizer.replacement === SEPARATOR)
  if (!whole || model.type !== 'BPE' || model.end_of_word_suffix) return preTokenizer
  const crossing = new RegExp(`[^${SEPARATOR}]${SEPARATOR}`, 'u')
  for (const merge of model.merges) {
    const [left, right] = typeof merge === 'string' ? merge.split(' ') : merge
    if (crossing.test(left + right)) return preTokenizer
  }
  if (model.ignore_merges && Object.keys(model.vocab).some((token) => crossing.test(token))) return preTokenizer
  const words = split(`${SEPARATOR}+[^${SEPARATOR}]*|[^${SEPARATOR}]+`)
  return preTokenizer === null ? words : { type: 'Sequence', pretokenizers: [preTokenizer, words] }
}

/** @param {Json} step */
function checkTemplate(step) {
  if (!Array.isArray(step.single)) throw new Error('TemplateProcessing.single is not a list')
  for (const item of step.single) {
    const id = item?.SpecialToken?.id
    if (id === undefined) continue
    // The library adds the token called `id`; the format adds those its table gives for that name.
    const tokens = step.special_tokens?.[id]?.tokens
    if (!Array.isArray(tokens) || tokens.length !== 1 || tokens[0] !== id) {
      throw new Error(
        `TemplateProcessing: special token ${show(id)} stands for ${show(tokens)}: only for itself is supported`,
      )
    }
  }
}

/**
 * @param {Json} part
 * @param {keyof typeof SUPPORTED} kind
 */
function supported(part, kind) {
  if (SUPPORTED[kind].includes(part.type)) return
  throw new Error(`${kind} ${show(part.type)} is not supported; these are: ${SUPPORTED[kind].join(', ')}`)
}

/**
 * @param {unknown} id
 * @param {string} token
 */
function checkId(id, token) {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id <= MAX_TOKEN_ID) return
  throw new Error(`token ${show(token)} has the id ${show(id)}: use a whole number from 0 to ${MAX_TOKEN_ID}`)
}

/**
 * @param {string} pattern in the format's dialect
 * @returns {Json}
 */
function split(pattern) {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
}

/** @param {string} character */
function literal(character) {
  return /[\w\s]/u.test(character) || character > '\x7f' ? character : `\\${character}`
}

/**
 * @param {unknown} value
 * @param {string} name
 * @returns {Json}
 */
function object(value, name) {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw new Error(`${name} is not an object`)
}

/**
 * A value in a message: short, whatever it is.
 *
 * @param {unknown} value
 */
function show(value) {
  const text = JSON.stringify(value) ?? 'undefined'
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
