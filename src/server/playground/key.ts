// The key of a server that asks for one: typed once, kept as long as the tab.
import { element } from './dom.js'

const STORED = 'gorgon.key'

export class Key {
  readonly #dialog = element('key-dialog', HTMLDialogElement)
  readonly #title = element('key-title', HTMLElement)
  readonly #input = element('key', HTMLInputElement)
  readonly #button: HTMLButtonElement
  readonly #onChange: () => void

  /** @param button to change the key; hidden as long as none was asked for. */
  constructor(button: HTMLButtonElement, onChange: () => void) {
    this.#button = button
    this.#onChange = onChange
    button.hidden = this.value === undefined
    button.addEventListener('click', () => this.ask('Key for this server'))
    this.#dialog.addEventListener('close', () => this.#closed())
  }

  get value(): string | undefined {
    return sessionStorage.getItem(STORED) ?? undefined
  }

  /** What a server means that refuses. */
  get complaint(): string {
    return this.value === undefined ? 'This server asks for a key.' : 'The server does not know this key.'
  }

  ask(title: string): void {
    this.#button.hidden = false
    if (this.#dialog.open) return
    this.#title.textContent = title
    this.#input.value = ''
    this.#dialog.returnValue = ''
    this.#dialog.showModal()
  }

  #closed(): void {
    if (this.#dialog.returnValue !== 'use') return
    const key = this.#input.value.trim()
    this.#input.value = ''
    if (key === '') sessionStorage.removeItem(STORED)
    else sessionStorage.setItem(STORED, key)
    this.#onChange()
  }
}
