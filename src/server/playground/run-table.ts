// The runs so far, as rows that can be compared and shown again.
import { make } from './dom.js'
import { NONE, showCount, showMs, showNumber, showShare } from './format.js'
import { compareTexts, nameOf, type Run, speedup } from './run.js'

/** Older runs are forgotten. */
const MOST_RUNS = 30

export class RunTable {
  readonly #body: HTMLElement
  readonly #onShow: (run: Run) => void
  #runs: Run[] = []
  #base: Run | null = null
  #shown: Run | null = null
  #count = 0

  constructor(body: HTMLElement, onShow: (run: Run) => void) {
    this.#body = body
    this.#onShow = onShow
  }

  get size(): number {
    return this.#runs.length
  }

  add(made: Omit<Run, 'number'>): Run {
    this.#count += 1
    const run = { ...made, number: this.#count }
    this.#runs = [run, ...this.#runs].slice(0, MOST_RUNS)
    // A base that was asked something else compares with nothing.
    if (this.#base === null || this.#base.input !== run.input || this.#base.model !== run.model) this.#base = run
    this.#shown = run
    this.#draw()
    return run
  }

  clear(): void {
    this.#runs = []
    this.#base = null
    this.#shown = null
    this.#draw()
  }

  #draw(): void {
    const rows = this.#runs.map((run) => this.#row(run))
    if (rows.length > 0) {
      this.#body.replaceChildren(...rows)
      return
    }
    const none = make('td', '', 'No runs yet.')
    none.colSpan = 12
    this.#body.replaceChildren(make('tr', 'none', [none]))
  }

  #row(run: Run): HTMLElement {
    const { usage, timing, speculation, kv, finish } = run.summary
    const show = make('button', 'quiet', `#${run.number}`)
    show.type = 'button'
    show.title = 'Show this run again'
    show.addEventListener('click', () => {
      this.#shown = run
      this.#draw()
      this.#body.querySelectorAll<HTMLElement>('button')[this.#runs.indexOf(run)]?.focus()
      this.#onShow(run)
    })
    const base = make('input')
    base.type = 'radio'
    base.name = 'base'
    base.checked = run === this.#base
    base.ariaLabel = `Compare with run ${run.number}`
    base.addEventListener('change', () => {
      this.#base = run
      this.#draw()
      this.#body.querySelectorAll<HTMLElement>('input')[this.#runs.indexOf(run)]?.focus()
    })
    const cells: [content: string | readonly Node[], className?: string][] = [
      [[show]],
      [[base]],
      [nameOf(run.summary)],
      [showCount(usage.prompt + usage.cached), 'n'],
      [showCount(usage.completion), 'n'],
      [showMs(timing.ttftMs), 'n'],
      [showNumber(timing.tokensPerSecond), 'n'],
      [this.#speedup(run), 'n'],
      [showNumber(speculation.tokensPerStep), 'n'],
      [showShare(kv.keptTokens, kv.promptTokens), 'n'],
      [[this.#comparison(run)]],
      [finish],
    ]
    const row = make(
      'tr',
      run === this.#shown ? 'shown' : '',
      cells.map(([content, className]) => make('td', className, content)),
    )
    row.dataset['run'] = String(run.number)
    return row
  }

  #speedup(run: Run): string {
    const factor = this.#base === null || this.#base === run ? null : speedup(run, this.#base)
    return factor === null ? NONE : `${showNumber(factor)}×`
  }

  #comparison(run: Run): Node {
    const found = this.#base === null || this.#base === run ? null : compareTexts(run, this.#base)
    if (found === null) return document.createTextNode(run === this.#base ? 'base' : NONE)
    if (found.same) return make('span', 'same', 'same as base')
    return make('span', 'differs', `differs at ${showCount(found.from)}`)
  }
}
