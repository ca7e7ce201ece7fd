// A bar: how much of the prompt's cache was kept, in rows and bytes.
import type { Summary } from '../protocol.js'
import { make } from './dom.js'
import { showBytes, showCount, showShare } from './format.js'

export class CacheBar {
  readonly #place: HTMLElement

  constructor(place: HTMLElement) {
    this.#place = place
    this.clear()
  }

  clear(): void {
    this.#place.replaceChildren(make('p', 'empty', 'Known at the end of a run.'))
  }

  show({ promptTokens, keptTokens, bytes, fullBytes }: Summary['kv']): void {
    const kept = make('div')
    kept.style.width = `${promptTokens === 0 ? 0 : (100 * keptTokens) / promptTokens}%`
    const dropped = promptTokens - keptTokens
    const keptText = `kept ${showCount(keptTokens)} rows, ${showBytes(bytes)} (${showShare(keptTokens, promptTokens)})`
    const droppedText =
      dropped === 0 ? 'dropped none' : `dropped ${showCount(dropped)} rows, ${showBytes(fullBytes - bytes)}`
    this.#place.replaceChildren(
      make('div', 'track', [kept]),
      make('p', '', keptText),
      make('p', 'dropped', droppedText),
    )
  }
}
