// Question: what do Medusa, SnapKV and both bring over plain decoding, and what do they cost, as prompts grow?
//
// Expected from arithmetic: where a step of a few rows costs what a step of one row does (memory-bound weights, or tiles that wait for
// sixteen rows), Medusa's decoding is faster by its tokens per step, less a tenth for the heads. A step reads the weights and the cache:
// over a prompt of R tokens SnapKV's is faster by (weights + R rows) / (weights + budget rows). For the demo model in bf16 that is
// (22 + 36) / (22 + 3) MB = 2.3 at 12000 tokens and a budget of 1024. Prefill is the same for all arms.
//
//   npm run bench -- decode/decode [options]     the same measurement as `gorgon bench`
import { benchOptions, describeDecode, type Measured, resultOf, runDecodeBench } from '../../src/cli/bench.js'
import { createProgress } from '../../src/cli/progress.js'
import { benchCommand, commandLine, runBench } from '../support/command.js'
import { writeResult } from '../support/results.js'

const BENCH = 'decode/decode'

async function main(given: Readonly<Record<string, unknown>>): Promise<void> {
  const progress = createProgress(process.stderr)
  let measured: Measured
  try {
    measured = await runDecodeBench(given, {
      signal: new AbortController().signal,
      progress: progress.show,
      onStart: () => undefined,
      remark(text) {
        progress.clear()
        process.stderr.write(`${text}\n`)
      },
    })
  } finally {
    progress.clear()
  }
  const path = await writeResult(resultOf(measured, commandLine(BENCH)), given['out'] as string)
  process.stdout.write(`${describeDecode(measured)}${path}\n`)
}

const command = benchCommand(BENCH, 'Plain decoding, Medusa, SnapKV and both, for prompts of several lengths.')
for (const option of benchOptions()) command.addOption(option)
command.addHelpText(
  'after',
  '\nWith default options and the demo model: 60 to 90 s on a server with AMX, several minutes elsewhere.',
)
await runBench(command.action(main))
