// Question: what do int8 weights cost in answers, and what do they save?
//
// Expected from arithmetic: rounding to steps of s moves a weight by s / sqrt(12) on average; s is 1/127 of a column's largest weight,
// which is about 3 times its typical one in columns of 400: 0.7 % of a product, and a few times that after the layers of a model add up.
// bf16 activations are off by 2^-9 / sqrt(3) = 0.1 %, so their own error stands beside it. Bytes: 1 + 4 / depth each, bf16 2, f32 4.
//
//   npm run bench -- quality/int8                      the project's own sources as texts
//   npm run bench -- quality/int8 FILE... [options]    any text files
//
// Every form of the weights reads the same texts, and its logits after every token are compared with those of f32: error, divergence,
// likeliest token, and the loss on the text's own next token. Then each continues the texts greedily, drafts and all, and is compared
// with f32's text. Before anything is written, speculation is compared with plain decoding in every form.
import { readFile } from 'node:fs/promises'
import { relative } from 'node:path'
import { type Engine, GorgonError, loadEngine, packageRoot } from '../../src/index.js'
import { type ModelHandle, native } from '../../src/native.js'
import { modelSpecOf, readModelFolder } from '../../src/weights/load.js'
import { benchCommand, commandLine, runBench, showProgress, wholeNumber, wrongResult } from '../support/command.js'
import { type MachineRecord, machineRecord } from '../support/machine.js'
import { ownSources } from '../support/own-sources.js'
import { writeResult } from '../support/results.js'
import { int8Table } from './int8.report.js'
import { commonPrefix, compareLogits, type LogitComparison } from './logits.js'

const BENCH = 'quality/int8'

/** The first one is what the others are compared with. */
const ARMS = [
  { name: 'f32', dtype: 'f32', weights: 'full' },
  { name: 'bf16', dtype: 'bf16', weights: 'full' },
  { name: 'int8', dtype: 'bf16', weights: 'int8' },
] as const
type Arm = (typeof ARMS)[number]

/** Rows of a pass. */
const CHUNK = 512

interface Options {
  readonly model: string
  readonly heads?: string
  readonly texts: number
  readonly tokens: number
  readonly greedy: number
  /** Of every arm, so that tokens per step compare heads and not trees. */
  readonly tree: string
  readonly threads: number
  readonly out: string
}

/** What is recorded of the options. */
export type Int8Options = Omit<Options, 'out' | 'threads'>

/** One form of the weights. */
export interface Int8Measurement {
  readonly arm: string
  readonly weightBytes: number
  readonly headsBytes: number
  readonly texts: readonly Int8Text[]
}

export interface Int8Text {
  readonly text: string
  readonly logits: LogitComparison
  /** Of the continuation: its tokens, and how many of them f32 has in common before the first that differs. */
  readonly greedy: { readonly tokens: number; readonly same: number; readonly tokensPerStep: number }
}

interface Text {
  readonly name: string
  readonly ids: Int32Array
}

async function readTexts(engine: Engine, files: readonly string[], tokens: number): Promise<Text[]> {
  const texts: Text[] = []
  for (const file of files) {
    const name = relative(packageRoot(), file)
    const text = await readFile(file, 'utf8').catch((cause: Error) => {
      throw new GorgonError('ERR_FILE', `${file} cannot be read: ${cause.message}. Name text files.`, { file }, cause)
    })
    const ids = (await engine.tokenize(`// path: ${name}\n${text}`)).slice(0, tokens)
    if (ids.length < 2) {
      throw new GorgonError('ERR_OPTION', `${file} has ${ids.length} tokens, at least 2 are needed.`, { file })
    }
    texts.push({ name, ids })
  }
  return texts
}

const forwardLogits = (model: ModelHandle, { ids }: Text): Float32Array => {
  const run = native().ops['forwardLogits'] as (model: ModelHandle, tokens: Int32Array, chunk: number) => Float32Array
  return run(model, ids, CHUNK)
}

/** Per arm and text. All arms stay open meanwhile, so that logits need no keeping: they are large. */
async function compareAll(folder: string, texts: readonly Text[], threads: number): Promise<LogitComparison[][]> {
  const model = await readModelFolder(folder)
  const open: ModelHandle[] = []
  try {
    for (const { dtype, weights } of ARMS) {
      const progress = new Int32Array(new SharedArrayBuffer(8))
      const spec = modelSpecOf(model, null, { backend: 'cpu', isa: isaOf(), threads, dtype, weights, progress })
      open.push(await native().openModel(spec))
    }
    const compared: LogitComparison[][] = ARMS.map(() => [])
    for (const [i, text] of texts.entries()) {
      showProgress(`logits: text ${i + 1} of ${texts.length}`)
      const reference = forwardLogits(open[0]!, text)
      for (const [arm, handle] of open.entries()) {
        const comparison = compareLogits(text.ids, arm === 0 ? reference : forwardLogits(handle, text), reference)
        if (!Number.isFinite(comparison.error)) throw wrongResult(`${text.name}: ${ARMS[arm]!.name} gave no numbers`)
        compared[arm]!.push(comparison)
      }
    }
    return compared
  } finally {
    await Promise.all(open.map((handle) => native().close(handle)))
  }
}

const isaOf = (): string => process.env['GORGON_CPU'] ?? 'auto'

interface Continued {
  readonly tokens: Int32Array
  readonly tokensPerStep: number
}

/** What an arm writes after each text. */
async function continueAll(engine: Engine, texts: readonly Text[], { greedy, tree }: Options): Promise<Continued[]> {
  const run = (text: Text, speculate: boolean) =>
    engine.generate(text.ids, {
      maxTokens: greedy,
      ignoreEos: true,
      kv: { policy: 'full' },
      speculation: speculate ? { mode: 'medusa', tree } : { mode: 'off' },
    })
  const speculate = engine.info.heads !== null
  const results = await Promise.all(texts.map((text) => run(text, speculate)))
  if (speculate && texts.length > 0) {
    const plain = await run(texts[0]!, false)
    if (commonPrefix(plain.tokens, results[0]!.tokens) !== plain.tokens.length) {
      throw wrongResult(
        `${texts[0]!.name}, ${engine.info.weights} weights: speculation gave other tokens than plain decoding`,
      )
    }
  }
  return results.map(({ tokens, speculation }) => ({ tokens, tokensPerStep: speculation.tokensPerStep }))
}

async function main(files: string[], options: Options): Promise<void> {
  const paths = files.length > 0 ? files : await ownSources(options.texts)
  const load = (arm: Arm) =>
    loadEngine({
      model: options.model,
      ...(options.heads === undefined ? {} : { heads: options.heads }),
      backend: 'cpu',
      dtype: arm.dtype,
      weights: arm.weights,
      threads: options.threads,
      limits: { maxQueue: paths.length },
    })
  let texts: Text[] = []
  let folder = ''
  let machine: MachineRecord | undefined
  const sizes: { weightBytes: number; headsBytes: number }[] = []
  const continued: Continued[][] = []
  for (const arm of ARMS) {
    showProgress(`continuations: ${arm.name}`)
    await using engine = await load(arm)
    folder = engine.info.model
    machine ??= machineRecord(engine.info)
    if (texts.length === 0) texts = await readTexts(engine, paths, options.tokens)
    sizes.push({ weightBytes: engine.info.weightBytes, headsBytes: engine.info.heads?.bytes ?? 0 })
    continued.push(await continueAll(engine, texts, options))
  }
  const compared = await compareAll(folder, texts, options.threads)
  showProgress()

  const measurements = ARMS.map(
    ({ name }, arm): Int8Measurement => ({
      arm: name,
      ...sizes[arm]!,
      texts: texts.map((text, i) => {
        const { tokens, tokensPerStep } = continued[arm]![i]!
        const same = commonPrefix(tokens, continued[0]![i]!.tokens)
        return {
          text: text.name,
          logits: compared[arm]![i]!,
          greedy: { tokens: tokens.length, same, tokensPerStep },
        }
      }),
    }),
  )
  const { out, threads: _, ...recorded } = options
  const result = {
    schema: 1,
    bench: BENCH,
    command: commandLine(BENCH),
    machine: machine!,
    options: recorded,
    measurements,
  } as const
  process.stdout.write(`${int8Table(result)}\n`)
  process.stdout.write(`${relative(process.cwd(), await writeResult(result, out))}\n`)
}

await runBench(
  benchCommand(BENCH, 'int8 weights beside bf16 and f32: logits, loss, greedy text, bytes.')
    .argument('[files...]', "texts; without any, the project's own sources")
    .option('--model <dir>', 'model folder; demo is the one of this package', 'demo')
    .option('--heads <dir>', "heads folder; the model's own when left out")
    .option('--texts <n>', 'how many of the own sources', wholeNumber(), 32)
    .option('--tokens <n>', 'tokens of a text', wholeNumber(2), 512)
    .option('--greedy <n>', 'tokens to continue a text with', wholeNumber(), 128)
    .option('--tree <tree>', 'what drafts: a name, a number of nodes, or chain:N', '16')
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .action(main),
)
