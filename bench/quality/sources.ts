// Next-line completion over a project: its files in path order, and lines of them to be completed.
import { readdir, readFile } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { GorgonError } from '../../src/index.js'
import { isCodeLine } from './edit-similarity.js'
import { Choices } from './random.js'

export interface SourceFile {
  /** From the project's folder, with slashes. */
  readonly path: string
  readonly text: string
}

/**
 * The TypeScript of some folders, in path order.
 *
 * @throws {GorgonError} ERR_FILE when a folder cannot be read, or none holds any.
 */
export async function readSources(root: string, folders: readonly string[]): Promise<SourceFile[]> {
  const paths: string[] = []
  for (const folder of folders) {
    try {
      const names = await readdir(join(root, folder), { recursive: true })
      paths.push(
        ...names.filter((name) => name.endsWith('.ts')).map((name) => `${folder}/${name.replaceAll(sep, '/')}`),
      )
    } catch (error) {
      throw new GorgonError(
        'ERR_FILE',
        `${join(root, folder)} cannot be read. Name a project with --data, and folders of it with --folders.`,
        { root, folder },
        error,
      )
    }
  }
  if (paths.length === 0) {
    throw new GorgonError(
      'ERR_FILE',
      `${root} has no TypeScript in ${folders.join(', ')}. Name others with --folders.`,
      {
        root,
        folders,
      },
    )
  }
  return Promise.all(paths.sort().map(async (path) => ({ path, text: await readFile(join(root, path), 'utf8') })))
}

const pathLine = (path: string): string => `// path: ${path}\n`

/** A file as the model reads it. */
export function fileText({ path, text }: SourceFile): string {
  return `${pathLine(path)}${text.endsWith('\n') ? text : `${text}\n`}`
}

export interface Completion {
  /** Index of the file. */
  readonly file: number
  /** From 1. */
  readonly line: number
  /** The file up to the line, its path before it. */
  readonly before: string
  readonly expected: string
}

/** Characters without which a line says too little. */
const LEAST_CHARACTERS = 10
/** Lines of a file before one is asked about. */
const LEAST_LINES = 5

/** Lines worth completing: code, as LongBench tells it from comments, and more than brackets. */
export function completionsOf(files: readonly SourceFile[]): Completion[] {
  return files.flatMap((file, index) => {
    const lines = file.text.split('\n')
    return lines.flatMap((expected, i): Completion[] => {
      const content = expected.trim()
      if (i < LEAST_LINES || content.length < LEAST_CHARACTERS || !isCodeLine(expected) || /^\/?\*/.test(content))
        return []
      const before = `${pathLine(file.path)}${lines
        .slice(0, i)
        .map((line) => `${line}\n`)
        .join('')}`
      return [{ file: index, line: i + 1, before, expected }]
    })
  })
}

/** `count` of them, the same for the same seed. */
export function chooseCompletions(all: readonly Completion[], count: number, seed: number): Completion[] {
  return new Choices(`completion ${seed}`).shuffle(all).slice(0, count)
}

/**
 * Exactly `length` tokens that end where the line begins: the file's own head, and before it the files that precede it in path order, the
 * last ones of the project before the first.
 *
 * @param idsOf tokens of a file's whole text, by its index; asked for as few as are needed.
 * @throws {GorgonError} ERR_FILE when all files together are too short.
 */
export async function completionPrompt(
  files: readonly SourceFile[],
  completion: Completion,
  length: number,
  {
    prefix,
    encode,
    idsOf,
  }: {
    readonly prefix: Int32Array
    readonly encode: (text: string) => Promise<Int32Array>
    readonly idsOf: (file: number) => Promise<Int32Array>
  },
): Promise<Int32Array> {
  const prompt = new Int32Array(length)
  prompt.set(prefix)
  let begin = length
  const put = (ids: Int32Array): void => {
    const taken = ids.subarray(Math.max(0, ids.length - (begin - prefix.length)))
    begin -= taken.length
    prompt.set(taken, begin)
  }
  put(await encode(completion.before))
  for (let back = 1; begin > prefix.length; back++) {
    if (back >= files.length) {
      throw new GorgonError(
        'ERR_FILE',
        `The sources hold ${length - begin} tokens before ${files[completion.file]!.path}, ${length} are needed. Give more files, or shorter prompts.`,
        { tokens: length - begin, length },
      )
    }
    put(await idsOf((completion.file - back + files.length) % files.length))
  }
  return prompt
}
