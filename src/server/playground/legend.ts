// Which shade is which depth, and how much of the text each brought.
import { make } from './dom.js'
import { showShare } from './format.js'

export class Legend {
  readonly #list: HTMLElement
  #shown = ''

  constructor(list: HTMLElement) {
    this.#list = list
  }

  /** @param byDepth tokens of depth d at d. */
  show(byDepth: readonly number[]): void {
    const total = byDepth.reduce((sum, count) => sum + count, 0)
    const labels = byDepth.map(
      (count, depth) => `${depth === 0 ? 'base model' : `depth ${depth}`} ${showShare(count, total)}`,
    )
    if (labels.join() === this.#shown) return
    this.#shown = labels.join()
    this.#list.replaceChildren(
      ...labels.map((label, depth) => {
        const swatch = make('span', 'swatch', String(depth))
        swatch.dataset['depth'] = String(depth)
        swatch.ariaHidden = 'true'
        return make('li', '', [swatch, document.createTextNode(label)])
      }),
    )
  }
}
