// A conversation with one sequence: turn after turn over the same cache.
import { TextExperience } from './decode/gate.js'
import { GorgonError } from './errors.js'
import type { Turn } from './generate.js'
import type { Generation, RunningGeneration } from './generation.js'
import type { SessionInfo } from './native.js'
import type { GenerateOptionsInput, Message, SessionOptions } from './options.js'
import { type EngineCore, openSequence } from './parts.js'
import { encodeRaw, isChat, type Prompt, renderPrompt, roomAfter } from './prompt.js'
import type { Claim } from './queue.js'
import type { Sequence } from './sequence.js'

/** What `send` takes: text or token ids to go on with, or the next message or messages of a chat. */
export type SessionInput = Prompt | Message

/** As the last turn left it. */
export interface SessionStats {
  /** Of all turns, prompts and answers. */
  readonly tokens: number
  /** Held per layer and KV head. */
  readonly rows: number
  readonly kvBytes: number
}

/** Starts a generation as the engine does; `begin` is called when its options hold. */
export type StartTurn = (
  options: GenerateOptionsInput | undefined,
  defaults: SessionOptions,
  begin: (claim: Claim) => { turn: Turn; continuation: boolean; learnt: TextExperience },
) => RunningGeneration

/** How a turn's tokens follow what the session holds. */
interface Addition {
  /** All of the context before them; shorter than what is held when they replace it. */
  readonly context: readonly number[]
  readonly tokens: Int32Array
  /** The chat as text up to here, and its messages; null in a session of plain text. */
  readonly chat: { readonly text: string; readonly messages: readonly Message[] } | null
}

/**
 * Several turns over one cache. Every token of a turn, prompt or answer, stop ids and strings included, is in the context of the next.
 *
 * A turn that was cut short while decoding leaves its prompt and what it had made so far; one that failed, or was cut short during prefill,
 * leaves the session as it was. After such a turn, and when a chat template writes earlier messages differently than they were, the
 * next turn prefills the whole context anew: `usage.cached` is 0 then.
 *
 * A session is of one kind, chat or plain, whichever its first turn was. It holds its cache until it is closed, but a place among the
 * engine's running sequences only during a turn. There is no fork: compression moves rows, so sessions cannot share them.
 */
export class Session implements AsyncDisposable {
  readonly #core: EngineCore
  readonly #options: SessionOptions
  readonly #start: StartTurn
  readonly #onClose: (session: Session) => void
  readonly #learnt: TextExperience
  /** Every token so far: those in the cache, then the sequence's tail. */
  #context: readonly number[] = []
  /** What a chat's context says, as text. */
  #chat: Addition['chat'] = null
  #sequence: Sequence | null = null
  /** What the cache holds between turns. */
  #held: SessionInfo | null = null
  #isRunning = false
  #running: RunningGeneration | null = null
  #closed: Promise<void> | null = null

  /** Made by `engine.session()`. */
  constructor(core: EngineCore, options: SessionOptions, start: StartTurn, onClose: (session: Session) => void) {
    this.#core = core
    this.#options = options
    this.#start = start
    this.#onClose = onClose
    this.#learnt = new TextExperience(core.experience)
  }

  /**
   * The next turn. A message or messages continue a chat by the model's template; text and token ids are appended as they are.
   *
   * The generation rejects with ERR_BUSY while another turn runs, ERR_CLOSED after close, and as `engine.generate` does.
   */
  send(input: SessionInput, options?: GenerateOptionsInput): Generation {
    let begun = false
    const generation = this.#start(options, this.#options, (claim) => {
      const turn = this.#turn(isMessage(input) ? [input] : input, claim)
      begun = true
      return turn
    })
    if (begun) this.#running = generation
    return generation
  }

  /** Of a chat, the answers among them; empty otherwise. */
  get messages(): readonly Message[] {
    return this.#chat?.messages ?? []
  }

  stats(): SessionStats {
    const { rows = 0, bytes = 0 } = this.#held ?? {}
    return { tokens: this.#context.length, rows, kvBytes: bytes }
  }

  /** Aborts a running turn and frees the cache; calling it again does nothing. */
  close(): Promise<void> {
    this.#closed ??= this.#shut()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #shut(): Promise<void> {
    this.#running?.abort(new DOMException('The session was closed', 'AbortError'))
    await this.#running?.settled
    await this.#sequence?.close()
    this.#sequence = null
    this.#held = null
    this.#onClose(this)
  }

  #turn(input: Prompt, claim: Claim): { turn: Turn; continuation: boolean; learnt: TextExperience } {
    if (this.#closed) {
      throw new GorgonError('ERR_CLOSED', 'The session is closed. Open a new one with engine.session().')
    }
    if (this.#isRunning) {
      throw new GorgonError('ERR_BUSY', 'The session is still at its last turn. Await its result, or abort it, first.')
    }
    const chat = isChat(input)
    if (this.#context.length > 0 && chat !== (this.#chat !== null)) {
      throw new GorgonError(
        'ERR_OPTION',
        `The session began with ${chat ? 'plain text, so it cannot go on with messages' : 'messages, so it cannot go on with plain text'}. Open another session.`,
        { value: input },
      )
    }
    this.#isRunning = true
    let addition: Addition | null = null
    let leave: (() => void) | null = null
    const turn: Turn = {
      begin: async (signal) => {
        const core = this.#core
        // Encoding needs no place: it goes on beside the waiting.
        const encoding = this.#encode(input, signal)
        leave = await core.places.take(claim, signal, encoding)
        const { room, ...added } = await encoding
        addition = added
        const { context, tokens } = added
        const held = context === this.#context && this.#sequence?.isIntact ? this.#sequence : null
        const sequence = held ?? (await this.#reopen())
        const prefix = held ? held.tail : context
        return { sequence, prompt: Int32Array.from([...prefix, ...tokens]), room }
      },
      end: async (made) => {
        try {
          const isWhole = made.isPrefilled && this.#sequence?.isIntact
          if (isWhole && addition) this.#remember(addition, made)
          // A sequence that fails here is no longer intact: the next turn begins it anew, and this one has its result.
          if (isWhole) await this.#sequence?.settle().catch(() => undefined)
          if (!this.#sequence?.isIntact) {
            await this.#sequence?.close()
            this.#sequence = null
          }
          this.#held = this.#sequence?.info ?? null
        } finally {
          leave?.()
          this.#isRunning = false
        }
      },
    }
    return { turn, continuation: !chat, learnt: this.#learnt }
  }

  #remember({ context, tokens, chat }: Addition, made: { tokens: readonly number[]; text: string }): void {
    this.#context = [...context, ...tokens, ...made.tokens]
    this.#chat = chat && {
      text: chat.text + made.text,
      messages: [...chat.messages, { role: 'assistant', content: made.text }],
    }
  }

  async #reopen(): Promise<Sequence> {
    await this.#sequence?.close()
    this.#sequence = openSequence(this.#core)
    return this.#sequence
  }

  /** @throws {GorgonError} ERR_CONTEXT_OVERFLOW, and what encoding may raise. */
  async #encode(input: Prompt, signal: AbortSignal): Promise<Addition & { readonly room: number }> {
    const addition = await this.#add(input, signal)
    const room = roomAfter(addition.tokens.length, addition.context.length, this.#core.context)
    return { ...addition, room }
  }

  async #add(input: Prompt, signal: AbortSignal): Promise<Addition> {
    const context = this.#context
    const isFirst = context.length === 0
    if (!isChat(input)) {
      return { context, tokens: await encodeRaw(input, this.#core, { addSpecial: isFirst, signal }), chat: null }
    }
    const messages = [...this.messages, ...input]
    const { text, addSpecial } = renderPrompt(this.#core, messages)
    const chat = { text, messages }
    const held = this.#chat?.text
    if (held === undefined || !text.startsWith(held)) {
      return { context: [], tokens: await encodeRaw(text, this.#core, { addSpecial, signal }), chat }
    }
    const delta = this.#withoutLast(context, text.slice(held.length))
    return { context, tokens: await encodeRaw(delta, this.#core, { addSpecial: false, signal }), chat }
  }

  /** The answer's last token may be the very token with which the template ends a message: it is there already. */
  #withoutLast(context: readonly number[], text: string): string {
    const last = context.at(-1)
    const { tokenizer } = this.#core
    if (last === undefined || !tokenizer?.isSpecial(last)) return text
    const spelled = tokenizer.tokenText(last)
    return text.startsWith(spelled) ? text.slice(spelled.length) : text
  }
}

function isMessage(input: SessionInput): input is Message {
  return typeof input === 'object' && input !== null && 'role' in input
}
