// The request form: what it says, which of its fields is wrong, and prompts to begin with.
import { element } from './dom.js'
import type { FieldName, Fields } from './request.js'

/** Short prompts; the long one is this page's own program. */
const EXAMPLES: Readonly<Record<string, string>> = {
  function: '/** Returns the largest of some numbers, or undefined when there are none. */\nexport function largest(',
  story: 'It was late in the year when the letter came. The old man read it twice, folded it, and',
}
const LONG_EXAMPLE = ['output', 'figures', 'run-table', 'request', 'chart', 'progress', 'provenance']
const AFTER_LONG_EXAMPLE = '\n/** Adds the points of two series. */\nexport function join('

export class RequestForm {
  readonly #form = element('request', HTMLFormElement)
  readonly #model = element('model', HTMLSelectElement)
  readonly #prompt = element('prompt', HTMLTextAreaElement)
  readonly #task = element('task', HTMLElement)
  readonly #chatModels = new Set<string>()

  /** @param onTask called when the model or the choice between going on and chatting changes. */
  constructor(onSubmit: () => void, onTask: () => void) {
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      onSubmit()
    })
    this.#form.addEventListener('input', (event) => (event.target as Element).removeAttribute('aria-invalid'))
    this.#task.addEventListener('change', onTask)
    this.#model.addEventListener('change', () => {
      this.#task.hidden = !this.#chatModels.has(this.model)
      onTask()
    })
    element('examples', HTMLElement).addEventListener('click', ({ target }) => {
      const { example } = (target as HTMLElement).dataset
      if (example !== undefined) void this.#fill(example)
    })
  }

  get model(): string {
    return this.#model.value
  }

  get prompt(): string {
    return this.#prompt.value
  }

  set prompt(text: string) {
    this.#prompt.value = text
  }

  get isChat(): boolean {
    const chosen = this.#form.elements.namedItem('task') as RadioNodeList
    return !this.#task.hidden && chosen.value === 'chat'
  }

  get fields(): Fields {
    const values = new FormData(this.#form)
    const value = (name: keyof Fields): string => String(values.get(name) ?? '')
    return {
      maxTokens: value('maxTokens'),
      temperature: value('temperature'),
      topP: value('topP'),
      seed: value('seed'),
      stop: value('stop'),
      mode: value('mode'),
      tree: value('tree'),
      policy: value('policy'),
      budget: value('budget'),
    }
  }

  /** The models of the server; the chosen one stays chosen where it still is there. */
  showModels(models: readonly { readonly id: string; readonly chat: boolean }[]): void {
    const chosen = this.model
    this.#chatModels.clear()
    for (const { id, chat } of models) if (chat) this.#chatModels.add(id)
    this.#model.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen)))
    this.#model.disabled = models.length === 0
    if (this.model !== chosen) this.#model.dispatchEvent(new Event('change'))
  }

  /** Marks the field that is wrong, and goes there. */
  markWrong(field: FieldName): void {
    const input = this.#form.elements.namedItem(field)
    if (!(input instanceof HTMLElement)) return
    input.ariaInvalid = 'true'
    input.focus()
  }

  async #fill(example: string): Promise<void> {
    this.#prompt.value = example === 'long' ? await longExample() : EXAMPLES[example]!
    this.#prompt.setSelectionRange(this.#prompt.value.length, this.#prompt.value.length)
    this.#prompt.scrollTop = this.#prompt.scrollHeight
    this.#prompt.focus()
  }
}

async function longExample(): Promise<string> {
  const modules = LONG_EXAMPLE.map(async (name) => (await fetch(new URL(`${name}.js`, import.meta.url))).text())
  const program = (await Promise.all(modules)).join('\n')
  return program.replace(/^\/\/# sourceMappingURL=.*\n?/gm, '') + AFTER_LONG_EXAMPLE
}
