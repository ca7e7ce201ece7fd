// Prompts of exactly so many tokens, for any model: from a text, from this package's sources, or of random ids.
import { readdir, readFile } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { type Engine, GorgonError, packageRoot } from '../index.js'

/** Where prompts come from. */
export type PromptKind = 'sources' | 'text' | 'random'

export interface Prompts {
  readonly kind: PromptKind
  /**
   * The first `tokenCount` tokens of prompt `index`; prompts of several indices begin at different places of the same text.
   *
   * @returns i32 [tokenCount]
   */
  take(index: number, tokenCount: number): Promise<Int32Array>
}

/** A text in parts, each a place where a prompt may begin. */
type Parts = readonly string[]

/** More than most tokenizers need for code and prose; a text that falls short is encoded again, longer. */
const CHARS_PER_TOKEN = 4
/** The text is cut anywhere, and its last tokens are those of half a word: these are never used. */
const FRAYED_TOKENS = 16

/**
 * @param text instead of this package's TypeScript sources, files in path order, each after a line that names it.
 * @param count prompts to tell apart: where each begins is spread evenly over the text.
 * @throws {GorgonError} ERR_EMPTY_PROMPT when the text holds no token.
 */
export async function promptsFor(
  engine: { readonly info: Pick<Engine['info'], 'hasTokenizer' | 'vocab'>; readonly tokenize: Engine['tokenize'] },
  { text, count }: { readonly text?: string | undefined; readonly count: number },
): Promise<Prompts> {
  if (!engine.info.hasTokenizer) {
    return { kind: 'random', take: async (index, tokenCount) => randomTokens(tokenCount, engine.info.vocab, index) }
  }
  const parts = text === undefined ? await ownSources() : linesOf(text)
  /** The longest encoded so far, by index. */
  const encoded = new Map<number, Int32Array>()
  return {
    kind: text === undefined ? 'sources' : 'text',
    async take(index, tokenCount) {
      let ids = encoded.get(index)
      if (!ids || ids.length < tokenCount + FRAYED_TOKENS) {
        ids = await encodeFrom(engine, parts, startOf(parts, index, count), tokenCount)
        encoded.set(index, ids)
      }
      return ids.slice(0, tokenCount)
    },
  }
}

/** Begins at a part and goes round the text as often as it takes. */
async function encodeFrom(
  engine: Pick<Engine, 'tokenize'>,
  parts: Parts,
  start: number,
  tokenCount: number,
): Promise<Int32Array> {
  const round = [...parts.slice(start), ...parts.slice(0, start)].join('')
  const wanted = tokenCount + FRAYED_TOKENS
  for (let chars = wanted * CHARS_PER_TOKEN; round.length > 0; chars *= 2) {
    const ids = await engine.tokenize(round.repeat(Math.ceil(chars / round.length)).slice(0, chars))
    if (ids.length >= wanted) return ids
    // So much text for so few tokens: there are none in it.
    if (chars > wanted * 1024) break
  }
  throw new GorgonError('ERR_EMPTY_PROMPT', 'The text for prompts holds no tokens. Give a file with text in it.')
}

/** The part at the same share of the text, by length, as `index` has of `count`. */
function startOf(parts: Parts, index: number, count: number): number {
  const total = parts.reduce((sum, part) => sum + part.length, 0)
  const wanted = (total * (index % count)) / count
  let passed = 0
  for (const [i, part] of parts.entries()) {
    if (passed >= wanted) return i
    passed += part.length
  }
  return 0
}

async function ownSources(): Promise<Parts> {
  const root = join(packageRoot(), 'src')
  const names = (await readdir(root, { recursive: true })).filter((name) => name.endsWith('.ts')).sort()
  return Promise.all(
    names.map(async (name) => {
      const path = `src/${name.replaceAll(sep, '/')}`
      return `// path: ${path}\n${await readFile(join(root, name), 'utf8')}\n`
    }),
  )
}

const linesOf = (text: string): Parts => text.split(/(?<=\n)/)

/** Token ids from a seed, so that a run can be repeated: what a prompt says does not change what it costs. */
export function randomTokens(count: number, vocab: number, seed = 0): Int32Array {
  let state = (seed + 1) * 0x9e3779b9
  return Int32Array.from({ length: count }, () => {
    // Xorshift of 32 bits (George Marsaglia): no two prompts alike is all that is asked of it.
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % vocab
  })
}
