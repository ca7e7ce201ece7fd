// Progress bars on standard error, when that is a terminal; nothing anywhere else.
import { SingleBar } from 'cli-progress'
import type { Output } from './io.js'

export interface Progress {
  /** Shows one thing's progress, starting its bar when `label` is new. `note` stands behind it. */
  show(label: string, done: number, total: number, note?: string): void
  /** Takes the bar away, before anything else is written. */
  clear(): void
}

const silent: Progress = { show: () => undefined, clear: () => undefined }

export function createProgress(stream: Output): Progress {
  if (!stream.isTTY) return silent
  let bar: SingleBar | undefined
  let current = ''

  function clear(): void {
    bar?.stop()
    bar = undefined
    current = ''
  }

  return {
    clear,
    show(label, done, total, note = '') {
      if (label !== current) {
        clear()
        bar = new SingleBar({
          stream,
          format: '{label} [{bar}] {percentage}%{note}',
          // What stands behind it needs the room.
          barsize: note === '' ? 30 : 12,
          clearOnComplete: true,
          // The bar must leave the terminal as it was even when the process is ended at once.
          hideCursor: false,
          linewrap: true,
          gracefulExit: false,
        })
        bar.start(total, done, { label, note: '' })
        current = label
      }
      bar?.setTotal(total)
      bar?.update(done, { note: note && ` ${note}` })
    },
  }
}
