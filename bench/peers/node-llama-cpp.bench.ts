// Question: how much faster than node-llama-cpp is this engine, on the same weights, threads and prompts, to the first token and after it?
//
// Expected from arithmetic: at 2 threads decoding of a model that fits the caches is bound by computing and by overheads per token, so
// plain decoding should gain what a packed layout and fewer hand-overs gain, 1.2x or more. Medusa commits 2 to 3 tokens a step for less
// than 1.25 steps' work: 2x or more on top at short prompts. At 12000 tokens attention reads 12000 rows a step and outweighs the linears;
// a budget of 1024 reads a twelfth of them: 10x or more. Prefill there is bound by products that AMX computes 8x as fast as AVX-512 with
// bf16: 5x or more to the first token.
//
//   npm install --prefix FOLDER node-llama-cpp@3.22.1
//   npm run bench -- peers/node-llama-cpp --node-llama-cpp FOLDER [options]
//
// Each arm is a process of its own that stays loaded; they take turns, and one that waits sleeps. Prompts are the project's own sources,
// another part of them each round; every arm gets the same token ids. node-llama-cpp runs its prebuilt CPU binary on the model exported to
// GGUF (export-gguf.ts), without drafting, since it has none for these heads; a context just large enough, so that nothing is shifted out
// and none of its memory is idle. Before anything is timed, all arms but the compressed ones decode the golden texts of the demo model.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promptsFor } from '../../src/bench/prompts.js'
import { demoModel, GorgonError, packageRoot } from '../../src/index.js'
import { loadTokenizer } from '../../src/text/tokenizer.js'
import { readModelFolder } from '../../src/weights/index.js'
import {
  benchCommand,
  commandLine,
  numberList,
  runBench,
  showProgress,
  wholeNumber,
  wordList,
  wrongResult,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { type BenchResult, writeResult } from '../support/results.js'
import { medianOf } from '../support/statistics.js'
import { ArmProcess, type Sample } from './arm-process.js'
import type { GorgonInfo, GorgonSetup } from './gorgon-arm.js'
import { exportGguf } from './model-to-gguf.js'
import { matching, type Peer, type PeerMeasurement, type PeerOptions, report } from './node-llama-cpp.report.js'
import type { NodeLlamaCppInfo, NodeLlamaCppSetup } from './node-llama-cpp-arm.js'

const BENCH = 'peers/node-llama-cpp'
/** For threads of the arm before to fall asleep. */
const SETTLE_MS = 100
const GOLDENS = join(packageRoot(), 'test', 'golden', 'reference', 'demo', 'meta.json')

const KV_TYPES = ['f16', 'bf16', 'f32'] as const
const SWITCH = ['on', 'off'] as const

interface Options extends Omit<PeerOptions, 'dtype'> {
  readonly nodeLlamaCpp: string
  readonly model: string
  readonly heads?: string
  readonly flash: readonly (typeof SWITCH)[number][]
  readonly kv: readonly (typeof KV_TYPES)[number][]
  readonly batch: readonly number[]
  readonly goldens?: string | false
  readonly out: string
}

/** A process, and what its measurements are filed under. */
interface Contender {
  readonly peer: Peer
  readonly process: ArmProcess<GorgonInfo | NodeLlamaCppInfo>
}

const PLAIN = 'plain'
const MEDUSA = 'Medusa'
const COMPRESSED = `${MEDUSA} + SnapKV`

async function main(options: Options): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'gorgon-peers-'))
  try {
    const model = options.model === 'demo' ? demoModel() : options.model
    const gguf = join(folder, 'model.gguf')
    const { dtype } = await exportGguf(model, gguf)
    const files = { model, gguf }
    const texts = await readGoldens(options)
    const prompts = await promptsOf(model, options)
    const measurements: PeerMeasurement[] = []
    // Apart from what is timed, so that the memory these texts took is not measured with it.
    if (texts.length > 0) {
      measurements.push(...(await withContenders(options, files, (all) => compareWithGoldens(all, texts))))
    }
    const machine = await withContenders(options, files, async (contenders) => {
      for (const [promptTokens, ofLength] of prompts) {
        measurements.push(...(await measure(contenders, options, ofLength, promptTokens)))
      }
      return machineRecord(contenders[0]!.process.info as GorgonInfo)
    })
    const { nodeLlamaCpp: _, goldens: __, out, ...shown } = options
    const result: BenchResult<PeerOptions, PeerMeasurement> = {
      schema: 1,
      bench: BENCH,
      command: commandLine(BENCH).replace(/(--node-llama-cpp[ =])('[^']*'|\S+)/, '$1FOLDER'),
      machine,
      options: { ...shown, dtype },
      measurements,
    }
    showProgress()
    process.stdout.write(`${report([result]).tables['peers']}\n${await writeResult(result, out)}\n`)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

interface Files {
  readonly model: string
  readonly gguf: string
}

/** Starts every arm, and ends them all when the work is done. */
async function withContenders<T>(
  options: Options,
  files: Files,
  work: (contenders: readonly Contender[]) => Promise<T>,
): Promise<T> {
  const contenders: Contender[] = []
  try {
    for await (const contender of started(options, files)) contenders.push(contender)
    return await work(contenders)
  } finally {
    await Promise.all(contenders.map(({ process }) => process.close()))
  }
}

/** Ours first, plain before the others: they are compared with it. */
async function* started(options: Options, { model, gguf }: Files): AsyncGenerator<Contender, void> {
  const { threads, heads, budget, tree } = options
  // As users get it: with the gate that keeps it from being slower than plain.
  const medusa = { mode: 'auto', tree } as const
  const own: [string, Pick<GorgonSetup, 'speculation' | 'kv'>][] = [
    [PLAIN, { speculation: { mode: 'off' }, kv: { policy: 'full' } }],
    [MEDUSA, { speculation: medusa, kv: { policy: 'full' } }],
    [`${COMPRESSED} ${budget}`, { speculation: medusa, kv: { policy: 'snapkv', budget } }],
  ]
  for (const [name, how] of own) {
    showProgress(`loading gorgon, ${name}`)
    const setup = { model, threads, ...(heads !== undefined && { heads }), ...how }
    const process = await ArmProcess.start<GorgonSetup, GorgonInfo>(armFile('gorgon-arm'), setup)
    yield { peer: { engine: 'gorgon', name, ...process.info }, process }
  }
  for (const settings of rivalSettings(options)) {
    const name = rivalName(settings, options)
    showProgress(`loading node-llama-cpp, ${name}`)
    const setup = { dir: options.nodeLlamaCpp, gguf, ...settings }
    const process = await ArmProcess.start<NodeLlamaCppSetup, NodeLlamaCppInfo>(armFile('node-llama-cpp-arm'), setup)
    yield { peer: { engine: 'node-llama-cpp', name, ...process.info, ...settings }, process }
  }
}

type RivalSettings = Omit<NodeLlamaCppSetup, 'dir' | 'gguf'>

function rivalSettings({ flash, kv, batch, threads }: Options): RivalSettings[] {
  return flash.flatMap((on) =>
    kv.flatMap((type) => batch.map((batchSize) => ({ threads, flashAttention: on === 'on', kv: type, batchSize }))),
  )
}

/** What tells it apart from the others. */
function rivalName({ flashAttention, kv, batchSize }: RivalSettings, options: Options): string {
  const parts = [`flash attention ${flashAttention ? 'on' : 'off'}`]
  if (options.kv.length > 1) parts.push(`${kv} KV`)
  if (options.batch.length > 1) parts.push(`batch ${batchSize}`)
  return parts.join(', ')
}

const armFile = (name: string): string => fileURLToPath(new URL(`./${name}.js`, import.meta.url))

/** By length, one per round: the same ids for every arm. */
async function promptsOf(
  model: string,
  { promptTokens, rounds }: Pick<Options, 'promptTokens' | 'rounds'>,
): Promise<Map<number, number[][]>> {
  const { config } = await readModelFolder(model)
  const tokenizer = await loadTokenizer(model)
  try {
    const info = { hasTokenizer: tokenizer !== null, vocab: config.shape.vocab }
    const prompts = await promptsFor({ info, tokenize: (text) => tokenizer!.encode(text) }, { count: rounds })
    const byLength = new Map<number, number[][]>()
    for (const length of promptTokens) {
      const taken: number[][] = []
      for (let round = 0; round < rounds; round++) taken.push([...(await prompts.take(round, length))])
      byLength.set(length, taken)
    }
    return byLength
  } finally {
    await tokenizer?.close()
  }
}

/** Texts of tokens, and the greedy tokens after each: of an independent implementation in f32. */
interface Goldens {
  readonly ids: readonly (readonly number[])[]
  readonly greedy_f32: readonly (readonly number[])[]
  readonly long_ids: readonly number[]
  readonly long_greedy_f32: readonly number[]
}

interface GoldenText {
  readonly prompt: readonly number[]
  readonly expected: readonly number[]
}

/** Those of the demo model are of no use to another one. */
async function readGoldens({ goldens, model }: Options): Promise<GoldenText[]> {
  const file = goldens ?? (model === 'demo' && GOLDENS)
  if (file === false) return []
  try {
    const { ids, greedy_f32, long_ids, long_greedy_f32 } = JSON.parse(await readFile(file, 'utf8')) as Goldens
    return [
      ...ids.map((prompt, i) => ({ prompt, expected: greedy_f32[i]! })),
      { prompt: long_ids, expected: long_greedy_f32 },
    ]
  } catch (error) {
    throw new GorgonError(
      'ERR_FILE',
      `The golden texts cannot be read from ${file}: ${(error as Error).message}. Give another file, or --no-goldens.`,
      { file },
      error,
    )
  }
}

/** Of the arms that keep everything: a compressed cache has goldens of its own, with the engine's tests. */
async function compareWithGoldens(
  contenders: readonly Contender[],
  texts: readonly GoldenText[],
): Promise<PeerMeasurement[]> {
  const size = {
    promptTokens: Math.max(...texts.map(({ prompt }) => prompt.length)),
    tokens: Math.max(...texts.map(({ expected }) => expected.length)),
  }
  const found: PeerMeasurement[] = []
  for (const { peer, process } of contenders) {
    if (peer.name.startsWith(COMPRESSED)) continue
    showProgress(`golden texts: ${peer.engine}, ${peer.name}`)
    await process.prepare(size)
    let equal = 0
    let of = 0
    for (const { prompt, expected } of texts) {
      const { tokens } = await process.run({ prompt, tokens: expected.length })
      equal += matching(tokens, expected)
      of += expected.length
    }
    found.push({ kind: 'goldens', peer, equal, of })
  }
  return found
}

async function measure(
  contenders: readonly Contender[],
  options: Options,
  prompts: readonly (readonly number[])[],
  promptTokens: number,
): Promise<PeerMeasurement[]> {
  const { tokens, rounds, warmup } = options
  for (const { process } of contenders) await process.prepare({ promptTokens, tokens })
  const arms = Object.fromEntries(
    contenders.map(({ peer, process }, i) => [
      String(i),
      async (round: number): Promise<Sample> => {
        showProgress(
          `${promptTokens} tokens, ${round < 0 ? 'warming up' : `round ${round + 1}`}: ${peer.engine}, ${peer.name}`,
        )
        await sleep(SETTLE_MS)
        return process.run({ prompt: prompts[Math.max(0, round)]!, tokens })
      },
    ]),
  )
  const samples = await interleave(arms, { rounds, warmup })
  const plain = samples['0']!
  return contenders.map(({ peer }, i): PeerMeasurement => {
    const own = samples[String(i)]!
    const equal = own.map((sample, round) => matching(sample.tokens, plain[round]!.tokens))
    if (peer.engine === 'gorgon' && peer.name === MEDUSA && equal.some((count) => count < tokens)) {
      throw wrongResult(`${promptTokens} tokens of prompt: Medusa gave other tokens than plain decoding`)
    }
    return {
      kind: 'speed',
      peer,
      promptTokens,
      ttftMs: own.map((sample) => sample.ttftMs),
      tokensPerSecond: own.map((sample) => sample.tokensPerSecond),
      tokensPerStep: own.map((sample) => sample.tokensPerStep),
      peakRssBytes: medianOf(own.map((sample) => sample.peakRssBytes)),
      equal: equal.reduce((sum, count) => sum + count, 0),
      of: rounds * tokens,
    }
  })
}

const command = benchCommand(
  BENCH,
  'Time to the first token and tokens per second beside node-llama-cpp, same weights.',
)
  .requiredOption('--node-llama-cpp <dir>', 'folder where node-llama-cpp was installed')
  .option('--model <dir>', 'model folder', 'demo')
  .option('--heads <dir>', "heads folder; the model's own without")
  .option('--prompt-tokens <list>', 'lengths of prompts', numberList(), [512, 1947, 4096, 12000])
  .option('--tokens <n>', 'tokens to generate', wholeNumber(2), 128)
  .option('--rounds <n>', 'samples per arm and length', wholeNumber(), 5)
  .option('--warmup <n>', 'rounds before that', wholeNumber(0), 1)
  .option('--threads <n>', 'of each engine', wholeNumber(), 2)
  .option('--tree <tree>', 'of the Medusa arms', 'auto')
  .option('--budget <n>', 'rows SnapKV keeps', wholeNumber(), 1024)
  .option('--flash <list>', 'flash attention of node-llama-cpp: an arm for each', wordList(SWITCH), [...SWITCH])
  .option('--kv <list>', 'its KV types: an arm for each', wordList(KV_TYPES), ['f16'])
  .option('--batch <list>', 'its batch sizes: an arm for each; 512 is its default', numberList(), [512])
  .option('--goldens <file>', 'texts to decode before anything is timed; without, those of the demo model')
  .option('--no-goldens', 'decode none')
  .action(main)

await runBench(command)
