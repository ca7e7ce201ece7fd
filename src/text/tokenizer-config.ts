// What tokenizer_config.json says: the special tokens by name, and the chat template.
import { join } from 'node:path'
import { readJsonObject } from '../json.js'

const NAMED_TOKENS = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const

export interface TokenizerConfig {
  /** Text of each special token that has a name, such as `bos_token`. */
  readonly namedTokens: Readonly<Partial<Record<(typeof NAMED_TOKENS)[number], string>>>
  /** Text of every special token the file lists, the named ones included. */
  readonly specialTokens: ReadonlySet<string>
  /** As found: a template, a list of named ones, or nothing. Checked when a chat is rendered. */
  readonly chatTemplate: unknown
}

/**
 * Reads tokenizer_config.json of a model folder; an absent file says nothing.
 *
 * @throws {GorgonError} ERR_TOKENIZER when it is not a JSON object, ERR_FILE when it cannot be read.
 */
export async function readTokenizerConfig(dir: string): Promise<TokenizerConfig> {
  const json = (await readJsonObject(join(dir, 'tokenizer_config.json'), 'ERR_TOKENIZER')) ?? {}
  const { additional_special_tokens, extra_special_tokens, added_tokens_decoder, chat_template } = json
  const namedTokens: Partial<Record<(typeof NAMED_TOKENS)[number], string>> = {}
  const specialTokens = new Set<string>()
  for (const name of NAMED_TOKENS) {
    const content = contentOf(json[name])
    if (content === null) continue
    namedTokens[name] = content
    specialTokens.add(content)
  }
  for (const token of [...valuesOf(additional_special_tokens), ...valuesOf(extra_special_tokens)]) {
    const content = contentOf(token)
    if (content !== null) specialTokens.add(content)
  }
  for (const token of valuesOf(added_tokens_decoder)) {
    const content = contentOf(token)
    if (content !== null && (token as { special?: unknown }).special === true) specialTokens.add(content)
  }
  return { namedTokens, specialTokens, chatTemplate: chat_template }
}

/** A token is written as its text, or as an object with it. */
function contentOf(token: unknown): string | null {
  const content = typeof token === 'object' && token !== null ? (token as { content?: unknown }).content : token
  return typeof content === 'string' && content !== '' ? content : null
}

function valuesOf(collection: unknown): unknown[] {
  return typeof collection === 'object' && collection !== null ? Object.values(collection) : []
}
