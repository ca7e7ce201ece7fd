// What a calibration leaves in a folder: accuracy.json for the engine, tree.json for --tree, tree.svg for people.
import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { writeDurably, writeError } from '../../src/durable-file.js'
import type { Calibration } from './calibrate.js'
import { drawTree } from './picture.js'

export interface WrittenFile {
  readonly file: string
  /** There was one before. */
  readonly replaced: boolean
}

/** Shares are known to a few digits; more of them would only be different in every run. */
const DIGITS = 6

/**
 * Writes them, each whole or not at all; the folder is made if it is not there.
 *
 * @throws {GorgonError} ERR_WRITE.
 */
export async function writeCalibration(folder: string, calibration: Calibration): Promise<WrittenFile[]> {
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw writeError(folder, error)
  })
  const written: WrittenFile[] = []
  for (const [name, text] of Object.entries(filesOf(calibration))) {
    const file = join(folder, name)
    const replaced = await stat(file).then(
      () => true,
      () => false,
    )
    await writeDurably(file, async (handle) => {
      await handle.writeFile(text)
    })
    written.push({ file, replaced })
  }
  return written
}

/** By name. The same calibration gives the same bytes. */
export function filesOf(calibration: Calibration): Readonly<Record<string, string>> {
  const { accuracy, tree, sizes, checks, conditions } = calibration
  const size = sizes.find(({ nodes }) => nodes === tree.nodes)
  return {
    'accuracy.json': jsonOf(accuracy),
    'tree.json': jsonOf({
      nodes: tree.nodes,
      paths: tree.paths,
      predicted: checks.map(({ temperature, predicted }) => ({ temperature, tokensPerStep: predicted.tokensPerStep })),
      ...(size?.speedup != null && { speedup: size.speedup }),
      conditions,
    }),
    'tree.svg': drawTree(calibration),
  }
}

/** JSON with a line for each path and each row of numbers. */
function jsonOf(value: object): string {
  const rounded = (_: string, item: unknown): unknown =>
    typeof item === 'number' && !Number.isInteger(item) ? Number(item.toFixed(DIGITS)) : item
  const isFlat = (item: unknown): boolean => JSON.stringify(item).length <= 100
  const lines = (item: unknown, indent: string): string => {
    if (typeof item !== 'object' || item === null || isFlat(item)) return JSON.stringify(item)
    const inner = `${indent}  `
    const [open, close] = Array.isArray(item) ? ['[', ']'] : ['{', '}']
    const entries = Array.isArray(item)
      ? item.map((one) => lines(one, inner))
      : Object.entries(item).map(([key, one]) => `${JSON.stringify(key)}: ${lines(one, inner)}`)
    return `${open}\n${entries.map((entry) => inner + entry).join(',\n')}\n${indent}${close}`
  }
  return `${lines(JSON.parse(JSON.stringify(value, rounded)), '')}\n`
}
