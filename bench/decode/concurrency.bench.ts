// Question: what do generations of one engine gain by sharing its passes, and what does each of them pay for it?
//
// Expected from arithmetic: n streams are one pass of n rows (n times the tree's, speculating) over the weights, and n passes over caches of
// their own. Where a step of sixteen rows costs 1.25 steps of one row, eight plain streams together make 8 / 1.25 = 6 times the tokens of
// one, less what their attention and the work per stream outside the pass take; three times is asked of it. Speculation has used part of
// those free rows already, so it gains less by sharing, from a higher start.
//
//   npm run bench -- decode/concurrency [options]
//
// Every stream's tokens are compared with those of plain decoding alone, before anything is reported.

import { promptsFor } from '../../src/bench/prompts.js'
import { table } from '../../src/cli/format.js'
import { type GenerateOptions, loadEngine } from '../../src/index.js'
import {
  benchCommand,
  commandLine,
  numberList,
  runBench,
  showProgress,
  wholeNumber,
  wrongResult,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { type BenchResult, writeResult } from '../support/results.js'
import {
  type ConcurrencyMeasurement,
  type ConcurrencyOptions,
  concurrencyTable,
  LEGEND,
  MODE_NAMES,
  MODES,
  type Mode,
  summariseConcurrency,
} from './concurrency.report.js'
import { type Request, runTogether } from './together.js'

const BENCH = 'decode/concurrency'

interface Given {
  readonly model: string
  readonly heads?: string
  readonly tree: string
  readonly concurrency: readonly number[]
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly temperature: number
  readonly threads: number
  readonly out: string
}

async function main(given: Given): Promise<void> {
  const { promptLengths, tokens, rounds, temperature } = given
  const most = Math.max(...given.concurrency, promptLengths.length)
  await using engine = await loadEngine({
    model: given.model,
    threads: given.threads,
    kv: { policy: 'full' },
    limits: { maxSequences: most },
    ...(given.heads !== undefined && { heads: given.heads }),
  })
  const modes = MODE_NAMES.filter((mode) => mode === 'plain' || engine.info.heads !== null)
  const prompts = await promptsFor(engine, { count: most })
  const optionsFor = (mode: Mode): GenerateOptions => ({
    maxTokens: tokens,
    ignoreEos: true,
    temperature,
    seed: 1,
    speculation: mode === 'plain' ? { mode: 'off' } : { mode: 'auto', tree: given.tree },
  })
  const requestFor = async (mode: Mode, stream: number): Promise<Request> => ({
    prompt: await prompts.take(stream, promptLengths[stream % promptLengths.length]!),
    options: optionsFor(mode),
  })

  showProgress('one by one, to know the tokens')
  const alone: Int32Array[] = []
  for (let stream = 0; stream < most; stream++) {
    alone.push((await runTogether(engine, [await requestFor('plain', stream)])).said[0]!)
  }

  const measurements: ConcurrencyMeasurement[] = []
  const runStreams = async (mode: Mode, streams: readonly number[], round: number): Promise<void> => {
    const requests = await Promise.all(streams.map((stream) => requestFor(mode, stream)))
    const { said, ...together } = await runTogether(engine, requests)
    for (const [i, stream] of streams.entries()) {
      if (said[i]!.some((token, at) => token !== alone[stream]![at]) || said[i]!.length !== alone[stream]!.length) {
        throw wrongResult(`${MODES[mode]}, ${streams.length} at once: stream ${stream} got other tokens than alone`)
      }
    }
    if (round >= 0) measurements.push({ mode, concurrency: streams.length, round, ...together })
  }
  const arms = modes.flatMap((mode) =>
    given.concurrency.map((count) => [
      `${MODES[mode]}, ${count} at once`,
      async (round: number) => {
        const streams = Array.from({ length: count === 1 ? promptLengths.length : count }, (_, stream) => stream)
        // Alone means one after another, one of each length.
        if (count === 1) for (const stream of streams) await runStreams(mode, [stream], round)
        else await runStreams(mode, streams, round)
      },
    ]),
  )
  await interleave(Object.fromEntries(arms) as Record<string, (round: number) => Promise<void>>, {
    rounds,
    onSample: (arm, _, round) => showProgress(`round ${round + 1} of ${rounds}: ${arm}`),
  })
  showProgress()

  const result: BenchResult<ConcurrencyOptions, ConcurrencyMeasurement> = {
    schema: 1,
    bench: BENCH,
    command: commandLine(BENCH),
    machine: machineRecord(engine.info),
    options: { model: given.model, promptLengths, tokens, rounds, tree: given.tree, temperature, kv: 'full' },
    measurements,
  }
  const path = await writeResult(result, given.out)
  process.stdout.write(`${table(concurrencyTable(summariseConcurrency(measurements)))}\n${LEGEND}\n${path}\n`)
}

/** One alone is what the others are compared with. */
const withOne = (text: string): number[] => [...new Set([1, ...numberList()(text)])].sort((a, b) => a - b)

await runBench(
  benchCommand(BENCH, 'Total speed and each stream’s, for several generations of one engine at once.')
    .option('--model <dir>', 'model folder', 'demo')
    .option('--heads <dir>', 'heads folder')
    .option('--tree <tree>', 'shape of the draft', 'auto')
    .option('--concurrency <n,n…>', 'generations at once; one alone is always among them', withOne, [1, 2, 4, 8, 16])
    .option('--prompt-lengths <n,n…>', 'tokens of the prompts, in turn', numberList(), [64, 128, 256, 512])
    .option(
      '--tokens <n>',
      'tokens to generate: the first to begin must still decode when the last begins',
      wholeNumber(16),
      384,
    )
    .option('--rounds <n>', 'runs of each', wholeNumber(), 3)
    .option('--temperature <t>', '0 is greedy', Number, 0)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 0)
    .addHelpText('after', '\nWith default options and the demo model: one to two minutes on a server with AMX.')
    .action(main),
)
