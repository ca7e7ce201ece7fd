// `gorgon serve` as a process of its own, for what concerns processes: signals, exits, balancers, crashes.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { packageRoot } from '../../src/native.js'
import { TYPESCRIPT } from './program.js'

/** A line of its log. */
export type LogLine = Readonly<Record<string, unknown>> & { readonly msg: string }

export interface ServeProcess {
  readonly child: ChildProcess
  readonly exit: Promise<[code: number | null, signal: NodeJS.Signals | null]>
  readonly isOver: boolean
  /** Lines so far: objects of the log, and text for what is no JSON. */
  readonly lines: readonly (LogLine | string)[]
  /** The first line with this message, as soon as it is there; rejects when the process ends without. */
  logged(message: string): Promise<LogLine>
  /** Where it listens, as soon as it does. */
  url(): Promise<string>
}

const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** @param argv after `serve`; a free port and one thread are chosen where it does not. */
export function startServe(argv: readonly string[] = [], env: NodeJS.ProcessEnv = {}): ServeProcess {
  const child = spawn(
    process.execPath,
    [...TYPESCRIPT, join(packageRoot(), 'src', 'cli', 'main.ts'), 'serve', '--port', '0', '--threads', '1', ...argv],
    { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] },
  )
  running.add(child)
  const exit = once(child, 'exit') as ServeProcess['exit']
  void exit.then(() => running.delete(child))
  const lines: (LogLine | string)[] = []
  const waiting = new Set<() => void>()
  const wake = (): void => {
    for (const look of waiting) look()
  }
  const reader = createInterface({ input: child.stderr! })
  reader.on('line', (line) => {
    lines.push(line.startsWith('{') ? (JSON.parse(line) as LogLine) : line)
    wake()
  })
  let isOver = false
  reader.on('close', () => {
    isOver = true
    wake()
  })

  const logged = (message: string): Promise<LogLine> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const line = lines.find((one) => typeof one === 'object' && one.msg === message) as LogLine | undefined
        if (!line && !isOver) return
        waiting.delete(look)
        if (line) resolve(line)
        else
          reject(
            new Error(`it ended without saying "${message}":\n${lines.map((one) => JSON.stringify(one)).join('\n')}`),
          )
      }
      waiting.add(look)
      look()
    })
  return {
    child,
    exit,
    lines,
    logged,
    url: async () => (await logged('listening'))['url'] as string,
    get isOver() {
      return child.exitCode !== null || child.signalCode !== null
    },
  }
}

/** Ends every process that `startServe` started and that still runs. */
export async function endAll(): Promise<void> {
  await Promise.all(
    [...running].map(async (child) => {
      const exit = once(child, 'exit')
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await exit
    }),
  )
}
