// Runs the command line in this process, with streams that remember.
import { PassThrough, Readable, Writable } from 'node:stream'
import type { Io } from '../../src/cli/io.js'
import { run } from '../../src/cli/program.js'

/** A stream that keeps what is written to it; a terminal if asked. */
export class Sink extends Writable {
  text = ''
  readonly columns = 80

  constructor(readonly isTTY = false) {
    super()
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.text += chunk.toString('utf8')
    done()
  }
}

export interface Outcome {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

export interface Surroundings {
  readonly stdin?: string | Buffer
  readonly stdout?: Writable & { text?: string }
  readonly isTerminal?: boolean
  readonly env?: Io['env']
  readonly signal?: AbortSignal
}

export async function gorgon(argv: readonly string[], around: Surroundings = {}): Promise<Outcome> {
  const stdout = around.stdout ?? new Sink(around.isTerminal)
  const stderr = new Sink(around.isTerminal)
  const exitCode = await run(argv, {
    stdin: around.stdin === undefined ? new PassThrough().end() : Readable.from([Buffer.from(around.stdin)]),
    stdout,
    stderr,
    env: around.env ?? {},
    signal: around.signal ?? new AbortController().signal,
  })
  return { exitCode, stdout: (stdout as Sink).text, stderr: stderr.text }
}

/** The one `gorgon: CODE: message` line of standard error. */
export function errorLine(stderr: string): string {
  const lines = stderr.split('\n').filter((line) => line.startsWith('gorgon: '))
  if (lines.length !== 1) throw new Error(`expected one error line, found ${lines.length}:\n${stderr}`)
  return lines[0]!
}
