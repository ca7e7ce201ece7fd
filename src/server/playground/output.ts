// The generated text on the page: it only ever grows, in time with the screen, and each token can be asked where it came from.
import { make } from './dom.js'
import type { Piece } from './provenance.js'

/** Deepest shade of the style sheet; deeper drafts look the same, and still say their depth. */
const DEEPEST_SHADE = 6
/** Tokens after which a new page of text begins at the next line break. Pages out of sight cost no layout. */
const PAGE_TOKENS = 400

export function whereFrom({ step, depth }: Pick<Piece, 'step' | 'depth'>): string {
  const from = depth === 0 ? "the base model's own" : `drafted by Medusa head ${depth}, accepted`
  return `step ${step + 1}, depth ${depth}: ${from}`
}

export class Output {
  readonly #box: HTMLElement
  readonly #tip: HTMLElement
  readonly #token: HTMLElement
  #answer: HTMLElement | null = null
  /** What stands on the page since the answer was begun. */
  #begun: readonly HTMLElement[] = []
  #page: HTMLElement | null = null
  #pageTokens = 0
  #pending: Piece[] = []
  #frame = 0
  /** Where the arrow keys are. */
  #here: HTMLElement | null = null

  /**
   * @param tip follows the pointer and says where the token under it came from.
   * @param token says the same for the arrow keys.
   */
  constructor(box: HTMLElement, tip: HTMLElement, token: HTMLElement) {
    this.#box = box
    this.#tip = tip
    this.#token = token
    box.addEventListener('pointerover', (event) => this.#pointAt(event))
    box.addEventListener('pointerleave', () => this.#hideTip())
    box.addEventListener('scroll', () => this.#hideTip(), { passive: true })
    box.addEventListener('keydown', (event) => this.#walk(event))
    box.addEventListener('blur', () => this.#stand(null))
  }

  /** All text of the answer that is being written, or was written last. */
  get text(): string {
    return (this.#answer?.textContent ?? '') + this.#pending.map(({ text }) => text).join('')
  }

  clear(): void {
    this.#flush()
    this.#stand(null)
    this.#hideTip()
    this.#answer = null
    this.#box.replaceChildren()
  }

  /** Begins an answer. What it answers stands before it: the end of a prompt that it goes on with, or what was said in a chat. */
  begin(before: string, kind: 'prompt' | 'said'): void {
    this.#flush()
    const answer = make('span', 'answer')
    this.#begun =
      kind === 'prompt'
        ? [make('span', 'prompt', before), answer]
        : [make('div', 'said', before), make('div', 'turn', [answer])]
    this.#box.append(...this.#begun)
    this.#answer = answer
    this.#page = null
    this.#box.scrollTop = this.#box.scrollHeight
  }

  /** Takes back what was begun, if nothing has come of it. */
  withdraw(): void {
    if (this.text !== '') return
    for (const node of this.#begun) node.remove()
    this.#begun = []
    this.#answer = null
  }

  /** Adds to the answer, before the screen is next drawn. */
  append(pieces: readonly Piece[]): void {
    this.#pending.push(...pieces)
    this.#frame ||= requestAnimationFrame(() => this.#flush())
  }

  /** Shows the end of the answer, also in a tab that is not drawn. */
  end(): void {
    this.#flush()
  }

  #flush(): void {
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
    if (this.#pending.length === 0 || this.#answer === null) return
    const pieces = this.#pending
    this.#pending = []
    // Read before anything is written, so that the page is laid out once.
    const isAtEnd = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < 40
    for (const piece of pieces) this.#write(piece)
    if (isAtEnd) this.#box.scrollTop = this.#box.scrollHeight
  }

  #write(piece: Piece): void {
    const lineEnd = piece.text.lastIndexOf('\n') + 1
    if (this.#page !== null && this.#pageTokens >= PAGE_TOKENS && lineEnd > 0) {
      this.#page.append(span(piece, piece.text.slice(0, lineEnd)))
      this.#page = null
      if (lineEnd === piece.text.length) return
      this.#write({ ...piece, text: piece.text.slice(lineEnd) })
      return
    }
    if (this.#page === null) {
      // The first page goes on in the prompt's line.
      const isFirst = this.#answer!.childElementCount === 0
      this.#page = isFirst ? make('span') : make('div', 'page')
      this.#pageTokens = 0
      this.#answer!.append(this.#page)
    }
    this.#page.append(span(piece, piece.text))
    this.#pageTokens += 1
  }

  #pointAt(event: PointerEvent): void {
    const token = event.target
    if (!(token instanceof HTMLElement) || token.dataset['depth'] === undefined) {
      this.#hideTip()
      return
    }
    this.#tip.textContent = whereFrom(pieceOf(token))
    this.#tip.hidden = false
    const { left, top, height } = token.getClientRects()[0]!
    const room = document.documentElement.clientWidth - this.#tip.offsetWidth - 4
    const above = top - this.#tip.offsetHeight - 4
    this.#tip.style.left = `${Math.max(4, Math.min(left, room))}px`
    this.#tip.style.top = `${above > 0 ? above : top + height + 4}px`
  }

  #hideTip(): void {
    this.#tip.hidden = true
  }

  #walk(event: KeyboardEvent): void {
    const direction = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (direction === undefined || event.ctrlKey || event.altKey || event.metaKey) return
    const tokens = [...this.#box.querySelectorAll<HTMLElement>('[data-depth]')]
    if (tokens.length === 0) return
    event.preventDefault()
    const from = this.#here === null ? (direction > 0 ? -1 : tokens.length) : tokens.indexOf(this.#here)
    this.#stand(tokens[Math.min(tokens.length - 1, Math.max(0, from + direction))]!)
  }

  #stand(token: HTMLElement | null): void {
    this.#here?.classList.remove('here')
    this.#here = token
    token?.classList.add('here')
    token?.scrollIntoView({ block: 'nearest' })
    this.#token.textContent = token === null ? '' : `${JSON.stringify(token.textContent)} ${whereFrom(pieceOf(token))}`
  }
}

function span({ step, depth }: Piece, text: string): HTMLElement {
  const made = make('span', '', text)
  made.dataset['step'] = String(step)
  made.dataset['depth'] = String(Math.min(depth, DEEPEST_SHADE))
  if (depth > DEEPEST_SHADE) made.dataset['exactDepth'] = String(depth)
  return made
}

function pieceOf({ dataset }: HTMLElement): Pick<Piece, 'step' | 'depth'> {
  return { step: Number(dataset['step']), depth: Number(dataset['exactDepth'] ?? dataset['depth']) }
}
