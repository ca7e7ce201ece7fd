// LongEval's "lines": a record of many lines with a number each, and a question about one of them.
// Source: DachengLi1/LongChat:longeval (Apache-2.0). The cases are not part of this package.
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { GorgonError } from '../../src/index.js'

const LinesCase = z.object({
  /** The line that is asked about: its key and its number in the record. */
  random_idx: z.tuple([z.string().min(1), z.int()]),
  expected_number: z.int(),
  num_lines: z.int().min(1),
  /** The record and the question. */
  prompt: z.string().min(1),
})

export interface LinesCase {
  readonly lines: number
  /** Of its file, from 0. */
  readonly index: number
  readonly prompt: string
  readonly expected: number
}

const SOURCE =
  'The cases are published at https://github.com/DachengLi1/LongChat, in longeval/evaluation/lines/testcases: put 200_lines.jsonl and its ' +
  'neighbours into a folder, and name it with --data.'

/**
 * The cases of a folder, by number of lines. Its files are `N.jsonl` or, as published, `N_lines.jsonl`.
 *
 * @param folder as `--data` names it.
 * @throws {GorgonError} ERR_OPTION when none is named; ERR_FILE when the folder cannot be read, holds no such file, or a line is not a case: the message says where cases
 *   are published.
 */
export async function readLines(folder: string | undefined): Promise<Map<number, LinesCase[]>> {
  if (folder === undefined) throw new GorgonError('ERR_OPTION', `--data is missing. ${SOURCE}`, {})
  let names: string[]
  try {
    names = await readdir(folder)
  } catch (error) {
    throw new GorgonError('ERR_FILE', `There are no LongEval cases at ${folder}. ${SOURCE}`, { folder }, error)
  }
  const sizes = names
    .flatMap((name) => {
      const size = /^(\d+)(?:_lines)?\.jsonl$/.exec(name)?.[1]
      return size === undefined ? [] : [{ name, lines: Number(size) }]
    })
    .sort((a, b) => a.lines - b.lines)
  if (sizes.length === 0) {
    throw new GorgonError('ERR_FILE', `${folder} has no file like 200.jsonl or 200_lines.jsonl. ${SOURCE}`, { folder })
  }
  const cases = new Map<number, LinesCase[]>()
  for (const { name, lines } of sizes) {
    const path = join(folder, name)
    cases.set(lines, parseLines(await readFile(path, 'utf8'), { path, lines }))
  }
  return cases
}

/** The cases of one file's text. */
export function parseLines(
  text: string,
  { path, lines }: { readonly path: string; readonly lines: number },
): LinesCase[] {
  return text.split('\n').flatMap((line, i): LinesCase[] => {
    if (line.trim() === '') return []
    const fail = (why: string): never => {
      throw new GorgonError('ERR_FILE', `${path}: line ${i + 1} ${why}. ${SOURCE}`, { path, line: i + 1 })
    }
    let json: unknown
    try {
      json = JSON.parse(line)
    } catch {
      fail('is not JSON')
    }
    const parsed = LinesCase.safeParse(json)
    if (!parsed.success) {
      const issue = parsed.error.issues[0]!
      return fail(`is not a LongEval case: ${issue.path.join('.') || 'it'}: ${issue.message}`)
    }
    const { random_idx, expected_number, num_lines, prompt } = parsed.data
    if (num_lines !== lines) fail(`has ${num_lines} lines, not the ${lines} of its file's name`)
    // A model that follows no instructions is shown how the answer begins.
    const asked = `${prompt}\nThe <REGISTER_CONTENT> in line ${random_idx[0]} is <`
    return [{ lines, index: i, prompt: asked, expected: expected_number }]
  })
}

/** Where an answer ends: after the number. */
export const LINES_STOP = ['>', '\n'] as const

/** Right when the last whole number of the output is the expected one, as LongEval scores. */
export function isRightLine(output: string, expected: number): boolean {
  const last = output.match(/\d+/g)?.at(-1)
  return last !== undefined && Number(last) === expected
}
