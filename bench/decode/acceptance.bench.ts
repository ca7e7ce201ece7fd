// Question: how many tokens does one decode step commit, and at which depth do drafts stop being accepted?
//
// Expected from arithmetic: tokens/step = 1 + the sum over a tree's nodes of the probability that its whole path is right; with the demo
// heads' rank accuracies (heads/demo/accuracy.json) that is 3.0 for the first 15 paths of mc_sim_7b_63 and 3.4 for all 63.
//
//   npm run bench -- decode/acceptance                      the project's own sources as prompts
//   npm run bench -- decode/acceptance FILE... [options]    any text files
//
// A prompt is the head of a file after a line with its path; the text behind it is never shown to the model. Before anything is printed,
// each tree's tokens are compared with plain decoding of the same prompt over the same cache.
import { readdir, readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { Command } from 'commander'
import { table } from '../../src/cli/format.js'
import { type Engine, isGorgonError, loadEngine, packageRoot, type Result } from '../../src/index.js'
import { medianOf } from '../support/statistics.js'

interface Options {
  readonly model?: string
  readonly heads?: string
  readonly tree: string[]
  readonly prompts: number
  readonly promptTokens: number
  readonly tokens: number
  readonly kv: 'full' | 'snapkv' | 'h2o' | 'streaming'
  readonly budget?: number
  readonly temperature: number
  readonly json?: boolean
}

/** What one tree did on one prompt. */
interface Measurement {
  readonly prompt: string
  readonly tree: string
  readonly tokensPerStep: number
  readonly byDepth: readonly { readonly offered: number; readonly accepted: number }[]
  readonly msPerToken: number
  readonly plainMsPerToken: number
}

/** `count` of them, spread evenly. */
async function ownSources(count: number): Promise<string[]> {
  const root = packageRoot()
  const names = await readdir(join(root, 'src'), { recursive: true })
  const files = names.filter((name) => name.endsWith('.ts')).sort()
  const every = Math.max(1, files.length / count)
  return files
    .filter((_, i) => Math.floor(i / every) !== Math.floor((i - 1) / every))
    .map((name) => join(root, 'src', name))
}

async function promptOf(engine: Engine, file: string, tokens: number): Promise<Int32Array> {
  const text = `// path: ${relative(packageRoot(), file)}\n${await readFile(file, 'utf8')}`
  return (await engine.tokenize(text)).slice(0, tokens)
}

const decodeMs = (result: Result): number => result.timing.decodeMs / result.usage.completion

async function measure(engine: Engine, file: string, options: Options): Promise<Measurement[]> {
  const prompt = await promptOf(engine, file, options.promptTokens)
  const run = async (tree: string | null): Promise<Result> =>
    engine.generate(prompt, {
      maxTokens: options.tokens,
      ignoreEos: true,
      temperature: options.temperature,
      seed: 1,
      kv: { policy: options.kv, ...(options.budget === undefined ? {} : { budget: options.budget }) },
      speculation: tree === null ? { mode: 'off' } : { mode: 'medusa', tree: /^\d+$/.test(tree) ? Number(tree) : tree },
    })
  const measurements: Measurement[] = []
  for (const tree of options.tree) {
    // A B B A: a drift of the machine's speed falls on both arms alike.
    const plain = [await run(null)]
    const speculated = [await run(tree), await run(tree)]
    plain.push(await run(null))
    for (const result of [...plain, ...speculated]) {
      if (result.text !== plain[0]!.text)
        throw new Error(`${file}: ${tree} gave other tokens than plain decoding: a bug, please report it`)
    }
    const { speculation } = speculated[0]!
    measurements.push({
      prompt: relative(process.cwd(), file),
      tree: speculation.tree,
      tokensPerStep: speculation.tokensPerStep,
      byDepth: speculation.byDepth,
      msPerToken: medianOf(speculated.map(decodeMs)),
      plainMsPerToken: medianOf(plain.map(decodeMs)),
    })
  }
  return measurements
}

const percent = (accepted: number, offered: number): string =>
  offered === 0 ? '-' : `${Math.round((100 * accepted) / offered)}%`

/** Steps weigh alike, so means over prompts are harmonic: all tokens over all steps of equally long texts. */
function summarise(measurements: readonly Measurement[]): string[][] {
  const trees = [...new Set(measurements.map((m) => m.tree))]
  const depth = Math.max(...measurements.map((m) => m.byDepth.length))
  const rows = [
    [
      'tree',
      'prompts',
      'tokens/step',
      'lowest',
      'highest',
      ...Array.from({ length: depth }, (_, d) => `depth ${d + 1}`),
      'x plain',
    ],
  ]
  for (const tree of trees) {
    const of = measurements.filter((m) => m.tree === tree)
    const rates = of.map((m) => m.tokensPerStep)
    const harmonic = rates.length / rates.reduce((sum, rate) => sum + 1 / rate, 0)
    const depths = Array.from({ length: depth }, (_, d) => {
      const sum = (key: 'offered' | 'accepted'): number =>
        of.reduce((total, m) => total + (m.byDepth[d]?.[key] ?? 0), 0)
      return percent(sum('accepted'), sum('offered'))
    })
    rows.push([
      tree,
      String(of.length),
      harmonic.toFixed(2),
      Math.min(...rates).toFixed(2),
      Math.max(...rates).toFixed(2),
      ...depths,
      medianOf(of.map((m) => m.plainMsPerToken / m.msPerToken)).toFixed(2),
    ])
  }
  return rows
}

async function main(files: string[], options: Options): Promise<void> {
  const paths = files.length > 0 ? files : await ownSources(options.prompts)
  const engine = await loadEngine({
    model: options.model ?? 'demo',
    ...(options.heads === undefined ? {} : { heads: options.heads }),
  })
  try {
    const measurements: Measurement[] = []
    for (const [i, file] of paths.entries()) {
      if (process.stderr.isTTY) process.stderr.write(`\r${i + 1} of ${paths.length} prompts`)
      measurements.push(...(await measure(engine, file, options)))
    }
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
    if (options.json) {
      process.stdout.write(`${JSON.stringify({ engine: engine.info, options, measurements }, null, 2)}\n`)
      return
    }
    const { backend, isa, dtype, threads } = engine.info
    process.stdout.write(
      `${paths.length} prompts of at most ${options.promptTokens} tokens, ${options.tokens} tokens after each, `,
    )
    process.stdout.write(
      `temperature ${options.temperature}, ${options.kv} cache; ${backend} ${isa} ${dtype}, ${threads} threads\n\n`,
    )
    process.stdout.write(table(summarise(measurements)))
    process.stdout.write(
      '\ndepth d: drafts accepted of those offered there. x plain: decoding time per token, plain over speculated, median of prompts.\n',
    )
  } finally {
    await engine.close()
  }
}

const whole = (text: string): number => {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`${text} is not a whole number from 1`)
  return value
}

try {
  await new Command('acceptance')
    .description('Tokens per step and acceptance by depth, beside plain decoding.')
    .argument('[files...]', "prompts; without any, the project's own sources")
    .option('--model <dir>', 'model folder; the demo model without')
    .option('--heads <dir>', 'heads folder')
    .option('--tree <tree...>', 'trees to compare', ['auto', 'mc_sim_7b_63', 'chain:4'])
    .option('--prompts <n>', 'how many of the own sources', whole, 16)
    .option('--prompt-tokens <n>', 'tokens of a file that become the prompt', whole, 400)
    .option('--tokens <n>', 'tokens to generate', whole, 100)
    .option('--kv <policy>', 'full, snapkv, h2o or streaming', 'full')
    .option('--budget <n>', 'rows kept', whole)
    .option('--temperature <t>', '0 is greedy', Number, 0)
    .option('--json', 'every measurement as JSON')
    .action(main)
    .parseAsync()
} catch (error) {
  process.stderr.write(`${isGorgonError(error) ? `${error.code}: ` : ''}${(error as Error).message}\n`)
  process.exitCode = 1
}
