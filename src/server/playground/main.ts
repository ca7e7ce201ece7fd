// The playground: one form, one output, and what can be measured between them.
import type { Generation } from '../../client/browser.js'
import { Conversation } from './conversation.js'
import { element } from './dom.js'
import { FailureBox, type Problem } from './failure.js'
import { Figures } from './figures.js'
import { RequestForm } from './form.js'
import { showCount, showMs, showNumber } from './format.js'
import { Key } from './key.js'
import { Legend } from './legend.js'
import { Link, type LinkState, problemOf } from './link.js'
import { Output } from './output.js'
import { Progress } from './progress.js'
import { type Piece, piecesOf } from './provenance.js'
import { FieldProblem, fieldOf, optionsOf } from './request.js'
import type { Run } from './run.js'
import { RunTable } from './run-table.js'

/** Characters of a prompt that are shown before the text that goes on with it. */
const PROMPT_SHOWN = 400

const STATES: Readonly<Record<LinkState, string>> = {
  connecting: 'connecting…',
  loading: 'the model is loading…',
  open: 'connected',
  reconnecting: 'connecting again…',
  draining: 'the server is stopping',
  idle: 'resting; connects when needed',
  closed: 'not connected',
}

const generateButton = element('generate', HTMLButtonElement)
const stopButton = element('stop', HTMLButtonElement)
const newChatButton = element('new-chat', HTMLButtonElement)
const clearRunsButton = element('clear-runs', HTMLButtonElement)
const connection = element('connection', HTMLElement)
const status = element('status', HTMLElement)
const prefill = element('prefill', HTMLProgressElement)
const textBox = element('output', HTMLElement)

const output = new Output(textBox, element('tip', HTMLElement), element('token', HTMLElement))
const legend = new Legend(element('legend', HTMLElement))
const failure = new FailureBox(element('failure', HTMLElement))
const figures = new Figures()
const conversation = new Conversation()
const runs = new RunTable(element('runs', HTMLElement), show)
const form = new RequestForm(() => void generate(), leaveConversation)
const key = new Key(element('key-button', HTMLButtonElement), () => {
  conversation.end()
  void link.open()
})
const link = new Link(key, {
  state: showState,
  models: (models) => form.showModels(models),
  failed: fail,
})

let running: Generation | null = null
let isOpen = false

async function generate(): Promise<void> {
  const { client } = link
  if (running !== null || client === null || !isOpen) return
  failure.clear()
  try {
    const { model, prompt, isChat } = form
    const options = {
      ...optionsOf(form.fields),
      model,
      onQueue: showQueue,
      onPrefill: showPrefill,
      onAbort: 'return',
    } as const
    if (!isChat || conversation.isNew) output.clear()
    const { generation, messages } = isChat
      ? conversation.ask(client, prompt, options)
      : { generation: client.generate(prompt, options), messages: null }
    running = generation
    output.begin(isChat ? prompt : prompt.slice(-PROMPT_SHOWN), isChat ? 'said' : 'prompt')
    showRunning()
    const run = await follow(generation, model, JSON.stringify(messages ?? prompt))
    if (isChat) form.prompt = ''
    showEnd(run)
  } catch (error) {
    if (error instanceof FieldProblem) fail(error, error.field)
    else fail(problemOf(error))
    output.withdraw()
  } finally {
    output.end()
    running = null
    showRunning()
  }
}

/** Shows a generation as it comes, and keeps it. */
async function follow(generation: Generation, model: string, input: string): Promise<Run> {
  const progress = new Progress()
  const pieces: Piece[] = []
  legend.show([])
  figures.clear(progress)
  for await (const delta of generation) {
    if (progress.tokens === 0) {
      prefill.hidden = true
      status.textContent = 'Generating'
    }
    const added = piecesOf(delta)
    progress.add(delta)
    pieces.push(...added)
    output.append(added)
    legend.show(progress.byDepth)
    figures.update(progress)
  }
  const { text, ...summary } = await generation
  const run = runs.add({ model, input, pieces, text, summary, rate: progress.rate, perStep: progress.perStep })
  figures.show(run)
  return run
}

/** A run of the table, again. */
function show(run: Run): void {
  if (running !== null) return
  conversation.end()
  output.clear()
  output.begin('', 'prompt')
  output.append(run.pieces)
  output.end()
  legend.show(tokensByDepth(run.pieces))
  figures.show(run)
  showEnd(run)
}

function tokensByDepth(pieces: readonly Piece[]): number[] {
  const counts: number[] = []
  for (const { depth } of pieces) {
    while (counts.length <= depth) counts.push(0)
    counts[depth]! += 1
  }
  return counts
}

function showEnd({ number, summary: { finish, stopString, usage, timing } }: Run): void {
  const why = {
    stop: stopString === undefined ? 'the model ended' : `stopped at ${JSON.stringify(stopString)}`,
    length: 'all tokens made',
    aborted: 'stopped',
    timeout: 'out of time',
  }[finish]
  status.textContent = `Run ${number}: ${showCount(usage.completion)} tokens in ${showMs(timing.e2eMs)}, ${showNumber(timing.tokensPerSecond)} per second; ${why}`
}

function showQueue({ position }: { readonly position: number }): void {
  status.textContent = position === 0 ? 'Next in the queue' : `In the queue, ${showCount(position)} before this one`
}

function showPrefill({ done, total, cached }: { done: number; total: number; cached: number }): void {
  prefill.hidden = false
  prefill.max = total
  prefill.value = done
  status.textContent =
    cached > 0 ? `Reading the prompt, ${showCount(cached)} tokens known already` : 'Reading the prompt'
}

function showRunning(): void {
  const isRunning = running !== null
  if (isRunning) status.textContent = 'Waiting for the server'
  else prefill.hidden = true
  generateButton.disabled = isRunning || !isOpen
  stopButton.disabled = !isRunning
  newChatButton.hidden = !form.isChat
  newChatButton.disabled = isRunning
  clearRunsButton.disabled = isRunning || runs.size === 0
  textBox.ariaBusy = String(isRunning)
}

/** Another model or task is another conversation. */
function leaveConversation(): void {
  if (!conversation.isNew) output.clear()
  conversation.end()
  showRunning()
}

function showState(state: LinkState, why = ''): void {
  isOpen = !['connecting', 'loading', 'closed'].includes(state)
  connection.title = why
  connection.textContent = state === 'idle' && why !== '' ? STATES.closed : STATES[state]
  connection.dataset['state'] = state
  showRunning()
}

function fail(problem: Problem, field = fieldOf(problem)): void {
  failure.show(problem.code === 'ERR_UNAUTHORIZED' ? { ...problem, message: key.complaint } : problem)
  status.textContent = ''
  if (field !== undefined) form.markWrong(field)
  if (problem.code === 'ERR_UNAUTHORIZED') key.ask(key.complaint)
}

function stop(): void {
  running?.abort()
}

stopButton.addEventListener('click', stop)
newChatButton.addEventListener('click', leaveConversation)
clearRunsButton.addEventListener('click', () => {
  runs.clear()
  showRunning()
})
element('shading', HTMLElement).addEventListener('change', (event) => {
  textBox.className = `text ${(event.target as HTMLInputElement).value}`
})
// What nobody will see needs no place at the server.
addEventListener('pagehide', stop)
document.addEventListener('keydown', (event) => {
  if (document.querySelector('dialog[open]')) return
  if (event.key === 'Escape') stop()
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault()
    void generate()
  }
})

// A phone shows the output before the options; where there is room, they are always there.
const isWide = matchMedia('(min-width: 46rem)')
const showOptions = (): void => {
  element('options', HTMLDetailsElement).open = isWide.matches
}
isWide.addEventListener('change', showOptions)
showOptions()

void link.open()
