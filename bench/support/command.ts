// What the command lines of benchmarks have in common: reading values, naming what was run, reporting failure.
import { basename, isAbsolute } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { GorgonError, isGorgonError } from '../../src/index.js'
import { type BenchResult, RESULTS, writeResult } from './results.js'

export { numberList, wholeNumber } from '../../src/cli/values.js'

/** Variables that change what is measured: part of what was run. */
const TELLING_VARIABLES = ['GORGON_BACKEND', 'GORGON_CPU'] as const

/** A benchmark's command: `--out` says where results go, help also shows how it is run here. */
export function benchCommand(bench: string, description: string): Command {
  return new Command(`npm run bench -- ${bench}`)
    .description(description)
    .configureHelp({ helpWidth: 110 })
    .addOption(new Option('--out <dir>', 'folder for the result').default(RESULTS, 'bench/results'))
}

/** Runs it; a failure becomes a message and an exit code: 2 for what was asked wrongly, else 1. */
export async function runBench(command: Command, argv: readonly string[] = process.argv): Promise<void> {
  try {
    await command.parseAsync(argv)
  } catch (error) {
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
    process.stderr.write(`${isGorgonError(error) ? `${error.code}: ` : ''}${(error as Error).message}\n`)
    process.exitCode = isGorgonError(error) && error.code === 'ERR_OPTION' ? 2 : 1
  }
}

/** A path as results show it: where somebody keeps their files says nothing to anybody else. */
export const nameOfPath = (path: string): string => (isAbsolute(path) || path.startsWith('..') ? basename(path) : path)

/** Also of `--data=/…`. */
const nameOfWord = (word: string): string =>
  word.replace(/^(--[a-z-]+=)?((?:\.\.)?\/.+)$/, (_, flag = '', path) => flag + nameOfPath(path))

/** The command that was run, as a user would type it; where its result went, and folders of this machine, are left out. */
export function commandLine(
  bench: string,
  argv: readonly string[] = process.argv.slice(2),
  env: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const set = TELLING_VARIABLES.filter((name) => env[name]).map((name) => `${name}=${quoted(env[name]!)}`)
  const kept = argv.filter((word, i) => !/^--out(=|$)/.test(word) && argv[i - 1] !== '--out')
  return [...set, 'npm run bench --', bench, ...kept.map((word) => quoted(nameOfWord(word)))].join(' ')
}

const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)

/** An option's value: words between commas, of those allowed. */
export function wordList<Word extends string>(allowed: readonly Word[]): (text: string) => Word[] {
  return (text) => {
    const words = text.split(',')
    const bad = words.find((word) => !(allowed as readonly string[]).includes(word))
    if (bad === undefined) return words as Word[]
    throw new InvalidArgumentError(`"${bad}" is not known. Use ${allowed.join(', ')}, with commas between.`)
  }
}

/** Ends a run: prints what `textOf` makes of its result, and the file in `out` that the result was written to. */
export async function publishResult<Options, Measurement>(
  run: Omit<BenchResult<Options, Measurement>, 'schema' | 'command'>,
  out: string,
  textOf: (result: BenchResult<Options, Measurement>) => string,
): Promise<void> {
  const { bench, machine, options, measurements } = run
  const result = { schema: 1 as const, bench, command: commandLine(bench), machine, options, measurements }
  process.stdout.write(textOf(result))
  process.stdout.write(`\n${await writeResult(result, out)}\n`)
}

/** A line of progress on a terminal; nothing elsewhere. Call it without text at the end. */
export function showProgress(text = ''): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${text}`)
}

/** What was measured differs from what it should equal: nothing is reported. */
export function wrongResult(what: string): GorgonError {
  return new GorgonError('ERR_INTERNAL', `${what}. This is a bug in gorgon: please report it.`)
}
