// Chat messages to prompt text, by the model's own template.
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { GorgonError } from '../errors.js'
import { readText } from '../read-text.js'
import { readTokenizerConfig, type TokenizerConfig } from './tokenizer-config.js'

/** Largest chat_template.jinja read; those in use have a few KiB. */
const MAX_TEMPLATE_BYTES = 1024 * 1024

/** Name of a model's template where it has only one. */
const DEFAULT_TEMPLATE = 'default'

/** One message; a template may read more fields than these two. */
export interface ChatMessage {
  /** Who speaks: `system`, `user`, `assistant`, or another role of the template. */
  readonly role: string
  readonly content: unknown
}

export interface RenderOptions {
  /** End with the header of the assistant's answer, for it to go on from. Default true. */
  readonly addGenerationPrompt?: boolean
  /** Name of the template, where a model has several. Default `default`. */
  readonly template?: string
  /** Further variables for the template, such as `tools` or `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>
}

/** A prompt, and how to encode it. */
export interface RenderedChat {
  readonly text: string
  /** For `tokenizer.encode`: false when the text begins with the beginning-of-sequence token, so that it is not there twice. */
  readonly addSpecial: boolean
}

/**
 * The chat template of a model folder, from chat_template.jinja or else tokenizer_config.json. A folder without one loads too: it can
 * complete text, and only render() throws.
 *
 * @param file of a template to use instead, which has to be there and well formed.
 * @throws {GorgonError} ERR_TOKENIZER when tokenizer_config.json is malformed, ERR_CHAT_TEMPLATE when the template's file is too large, or
 *   `file` is missing or malformed, ERR_FILE when a file cannot be read.
 */
export async function loadChatTemplate(dir: string, file?: string): Promise<ChatTemplate> {
  const config = await readTokenizerConfig(dir)
  const path = file ?? join(dir, 'chat_template.jinja')
  const source = await readText(path, MAX_TEMPLATE_BYTES, 'ERR_CHAT_TEMPLATE')
  if (source !== null) {
    // The file is the newer way to save a template, and wins where there are both.
    const template = new ChatTemplate(path, { ...config, chatTemplate: source })
    if (file !== undefined) template.check()
    return template
  }
  if (file === undefined) return new ChatTemplate(join(dir, 'tokenizer_config.json'), config)
  throw new GorgonError(
    'ERR_CHAT_TEMPLATE',
    `${file}: there is no such file. Give the file of a chat template, or leave it out for the model's own.`,
    { file },
  )
}

/** Renders chats. Templates are parsed when first used. */
export class ChatTemplate {
  readonly #where: string
  readonly #config: TokenizerConfig
  readonly #parsed = new Map<string, Template>()

  /** @param where the file the template is from, for messages */
  constructor(where: string, config: TokenizerConfig) {
    this.#where = where
    this.#config = config
  }

  /** Whether the model has a template; it may still be malformed. */
  get exists(): boolean {
    return this.#config.chatTemplate != null
  }

  /** @throws {GorgonError} ERR_CHAT_TEMPLATE when there is no template, or it is malformed. */
  check(): void {
    this.#parse(DEFAULT_TEMPLATE)
  }

  /**
   * The prompt text of these messages.
   *
   * @throws {GorgonError} ERR_CHAT_TEMPLATE when the model has no template of this name, or it is malformed, or it refuses the messages.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): RenderedChat {
    const { addGenerationPrompt = true, template = DEFAULT_TEMPLATE, variables = {} } = options
    const parsed = this.#parse(template)
    const { namedTokens } = this.#config
    let text: string
    try {
      text = parsed.render({
        // Templates ask whether these are none; where they are not even defined some would fail.
        tools: null,
        documents: null,
        ...namedTokens,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
      })
    } catch (error) {
      throw this.#error(
        `the chat template refused the messages: ${reasonOf(error)}`,
        'Change the messages, or render the prompt yourself.',
        error,
      )
    }
    const bos = namedTokens.bos_token
    return { text, addSpecial: bos === undefined || !text.startsWith(bos) }
  }

  #parse(name: string): Template {
    const known = this.#parsed.get(name)
    if (known !== undefined) return known
    const source = this.#source(name)
    try {
      const parsed = new Template(source)
      this.#parsed.set(name, parsed)
      return parsed
    } catch (error) {
      throw this.#error(
        `the chat template is malformed: ${reasonOf(error)}`,
        'Render the prompt yourself and pass it as text.',
        error,
      )
    }
  }

  #source(name: string): string {
    const { chatTemplate } = this.#config
    if (chatTemplate == null) {
      throw this.#error(
        'the model has no chat template',
        'Pass the prompt as text, or load the model with a template of your own: chatTemplate.',
      )
    }
    const templates =
      typeof chatTemplate === 'string' ? new Map([[DEFAULT_TEMPLATE, chatTemplate]]) : namedTemplates(chatTemplate)
    const source = templates.get(name)
    if (source !== undefined) return source
    const names = [...templates.keys()].map((known) => JSON.stringify(known)).join(', ')
    throw this.#error(
      `the model has no chat template called ${JSON.stringify(name)}`,
      `It has: ${names === '' ? 'none' : names}.`,
    )
  }

  #error(what: string, doThis: string, cause?: unknown): GorgonError {
    return new GorgonError('ERR_CHAT_TEMPLATE', `${this.#where}: ${what}. ${doThis}`, { file: this.#where }, cause)
  }
}

/** Several templates are written as a list of { name, template }, or as an object by name. */
function namedTemplates(chatTemplate: unknown): Map<string, string> {
  const templates = new Map<string, string>()
  if (typeof chatTemplate !== 'object' || chatTemplate === null) return templates
  const entries: [unknown, unknown][] = Array.isArray(chatTemplate)
    ? chatTemplate.map((entry: { name?: unknown; template?: unknown } | null) => [entry?.name, entry?.template])
    : Object.entries(chatTemplate)
  for (const [name, source] of entries) {
    if (typeof name === 'string' && typeof source === 'string') templates.set(name, source)
  }
  return templates
}

function reasonOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/, '')
}
