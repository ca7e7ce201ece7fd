// The streams, environment and interruption a command runs with: the process's own, or a test's.
import type { Readable, Writable } from 'node:stream'

/** A stream that may be a terminal. */
export type Output = Writable & { readonly isTTY?: boolean; readonly columns?: number }

export interface Io {
  readonly stdin: Readable
  /** Text, tables and JSON: what the command was run for. */
  readonly stdout: Output
  /** Progress, errors and remarks. */
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted when the user interrupts. */
  readonly signal: AbortSignal
}

/** The reader of standard output went away (`| head`): a reason to stop, not an error. */
export class ReaderGone extends Error {}

/** Writes and waits until the stream has taken it, so a slow reader slows the writer. */
export function write(stream: Output, text: string): Promise<void> {
  return new Promise((done, fail) => {
    if (text === '') return done()
    stream.write(text, (error) => {
      if (!error) done()
      else
        fail((error as NodeJS.ErrnoException).code === 'EPIPE' ? new ReaderGone('standard output was closed') : error)
    })
  })
}
