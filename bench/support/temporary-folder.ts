// A folder for files of one run, removed when the run ends, whichever way it does.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const SIGNALS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const

export interface TemporaryFolderOptions {
  /** Where to make it; the system's temporary folder when left out. */
  readonly parent?: string | undefined
  /** Leaves it where it is. */
  readonly keep?: boolean | undefined
}

/** Runs `body` with a new folder. Interrupted, the process ends as it would have, without the folder. */
export async function withTemporaryFolder<T>(
  prefix: string,
  { parent = tmpdir(), keep = false }: TemporaryFolderOptions,
  body: (dir: string) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(parent, prefix))
  const remove = (): void => {
    if (!keep) rmSync(dir, { recursive: true, force: true })
  }
  const end = (signal: keyof typeof SIGNALS): void => {
    remove()
    process.exit(128 + SIGNALS[signal])
  }
  for (const signal of Object.keys(SIGNALS)) process.once(signal, end)
  process.once('exit', remove)
  try {
    return await body(dir)
  } finally {
    for (const signal of Object.keys(SIGNALS)) process.removeListener(signal, end)
    process.removeListener('exit', remove)
    remove()
  }
}
