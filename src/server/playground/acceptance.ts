// Bars: how many of the drafts offered at each depth were accepted.
import { make } from './dom.js'
import { showCount, showShare } from './format.js'
import type { Acceptance } from './progress.js'

export class AcceptanceBars {
  readonly #list: HTMLElement
  readonly #note: HTMLElement

  constructor(list: HTMLElement, note: HTMLElement) {
    this.#list = list
    this.#note = note
    this.show([], '')
  }

  /** @param note what to know about these figures. */
  show(depths: readonly Acceptance[], note: string): void {
    this.#note.textContent = note
    const shown = depths.filter(({ offered }) => offered > 0)
    if (shown.length === 0) {
      this.#list.replaceChildren(make('li', 'empty', 'No drafts.'))
      return
    }
    while (this.#list.childElementCount > shown.length || this.#list.querySelector('.empty'))
      this.#list.lastChild!.remove()
    shown.forEach(({ offered, accepted }, i) => {
      const bar = this.#list.children[i] ?? this.#list.appendChild(this.#bar(i + 1))
      const share = showShare(accepted, offered)
      bar.querySelector('.share')!.textContent = share
      bar.querySelector<HTMLElement>('.track > div')!.style.width = `${(100 * accepted) / offered}%`
      bar.ariaLabel = `depth ${i + 1}: ${share}, ${showCount(accepted)} of ${showCount(offered)}`
      ;(bar as HTMLElement).title = `${showCount(accepted)} of ${showCount(offered)} accepted`
    })
  }

  #bar(depth: number): HTMLElement {
    const swatch = make('span', 'swatch', String(depth))
    swatch.dataset['depth'] = String(depth)
    return make('li', '', [swatch, make('div', 'track', [make('div')]), make('span', 'share')])
  }
}
