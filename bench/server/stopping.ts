// `gorgon serve` told to stop while clients are at work.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CountingClient, tallyOf } from './counting-client.js'
import { nodeFlags } from './fork-program.js'

export interface Stopped {
  /** That ran when the signal came. */
  readonly requests: number
  /** Of those, as many as the server's log has a line of, each once. */
  readonly ended: number
  /** How they ended for their clients, and those that were sent too late. */
  readonly ends: Readonly<Record<string, number>>
  /** From the signal to the end of the process. */
  readonly stopMs: number
}

export interface Stopping {
  readonly model: string
  readonly clients: number
  /** For what runs. */
  readonly drainSeconds: number
}

/** A log line of the server. */
interface Line {
  readonly msg: string
  readonly url?: string
  /** Of a generation. */
  readonly work?: string
}

/**
 * Half of the clients have a request that ends in the time there is, half one that does not. All ask once more when they are told that
 * the server stops.
 *
 * @throws when a request ended twice or never, on either side, or the process did not end well.
 */
export async function stopUnderLoad({ model, clients: count, drainSeconds }: Stopping): Promise<Stopped> {
  const server = new ServeProcess(['--model', model, '--threads', '1', '--port', '0', '--drain', String(drainSeconds)])
  try {
    await server.saying('ready')
    const clients = await Promise.all(Array.from({ length: count }, () => CountingClient.connect(server.url)))
    for (const [i, client] of clients.entries()) {
      client.generate('running', 'import ', { maxTokens: i % 2 === 0 ? 64 : 8000, ignoreEos: true })
    }
    await Promise.all(clients.map((client) => client.until(() => client.tokensOf('running').length > 0)))
    const startMs = performance.now()
    server.signal('SIGTERM')
    const late = clients.map(async (client) => {
      await client.until(() => client.isDraining)
      if (client.closeCode === null) client.generate('late', 'import ')
      await client.closed()
    })
    await Promise.all(late)
    const exitCode = await server.ended
    const stopMs = performance.now() - startMs
    const works = server.lines.filter(({ msg }) => msg.startsWith('generation ')).map(({ work }) => work)
    const ended = new Set(works).size
    const ends = tallyOf(clients)
    if (exitCode !== 0 || ends['twice'] || works.length !== ended || ended !== count) {
      throw new Error(
        `exit code ${exitCode}, ${works.length} ends of ${ended} requests logged: ${JSON.stringify(ends)}`,
      )
    }
    return { requests: count, ended, ends, stopMs }
  } finally {
    server.signal('SIGKILL')
  }
}

class ServeProcess {
  readonly lines: Line[] = []
  readonly ended: Promise<number | null>
  readonly #child: ChildProcess
  readonly #watchers = new Set<() => void>()
  #isOver = false

  constructor(argv: readonly string[]) {
    const isCompiled = import.meta.url.endsWith('.js')
    const main = fileURLToPath(new URL(`../../src/cli/main${isCompiled ? '.js' : '.ts'}`, import.meta.url))
    this.#child = spawn(process.execPath, [...nodeFlags(), main, 'serve', ...argv], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    createInterface({ input: this.#child.stderr! }).on('line', (line) => this.#said(line))
    this.ended = once(this.#child, 'close').then(([code]) => {
      this.#isOver = true
      for (const wake of this.#watchers) wake()
      return code as number | null
    })
  }

  get url(): string {
    return this.lines.find(({ msg }) => msg === 'listening')!.url!
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** @throws when the process ends without having said it. */
  async saying(msg: string): Promise<void> {
    while (!this.lines.some((line) => line.msg === msg)) {
      if (this.#isOver) {
        throw new Error(`The server ended with exit code ${this.#child.exitCode}: ${this.lines.at(-1)?.msg}`)
      }
      await new Promise<void>((wake) => this.#watchers.add(wake))
    }
  }

  #said(line: string): void {
    // What is no line of the log is what the process ends with.
    this.lines.push(line.startsWith('{') ? (JSON.parse(line) as Line) : { msg: line })
    for (const wake of this.#watchers) wake()
    this.#watchers.clear()
  }
}
