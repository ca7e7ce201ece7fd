// Question: how fast do PyTorch and transformers decode and prefill the same shape on the same GPU, and what do the vendor's libraries reach?
//
// Expected from arithmetic: launching some 500 kernels a step from Python takes 15 to 25 ms, four to six times the 3.3 ms that the bytes of a 7B
// model take on an H200; captured into a graph, or compiled, the same kernels come near 4.5 ms. A cache that is copied to grow costs its bytes
// twice more each step. cuBLAS should read weights at 80 to 90 % of the copy bandwidth for few rows, and reach 700 TFLOP/s for 4096.
//
//   npm run bench -- peers/transformers
//   npm run bench -- peers/transformers --python /path/to/python3 --prompts 1024,4096 --compile
//
// Runs bench/peers/pytorch.py, which needs torch and transformers: random Mistral-7B weights in bf16, a cache filled with random rows in place of
// a prompt, greedy steps of one token, the host waiting for each. Four ways: attention by SDPA over a growing cache, eager attention over one,
// SDPA over a static cache, and that captured into a CUDA graph; torch.compile with --compile. SDPA decodes without cuDNN, which would plan anew
// for every length of a growing cache. Nothing of theirs speculates or compresses here.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { GorgonError, packageRoot } from '../../src/index.js'
import { benchCommand, commandLine, numberList, runBench, showProgress, wholeNumber } from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { type BenchResult, writeResult } from '../support/results.js'
import {
  report,
  TransformersMeasurement,
  type TransformersOptions,
  type TransformersResultOptions,
} from './transformers.report.js'

const BENCH = 'peers/transformers'
const SCRIPT = join(packageRoot(), 'bench', 'peers', 'pytorch.py')
/** Importing, and ending what was begun. */
const GRACE_SECONDS = 60

const Output = z.object({
  info: z.object({
    torch: z.string(),
    transformers: z.string(),
    cuda: z.string().nullable(),
    isa: z.string(),
    layers: z.number(),
  }),
  measurements: z.array(TransformersMeasurement),
})

type Given = TransformersOptions & { readonly python: string; readonly out: string }

async function runScript({ python, prompts, layers, steps, seconds, compile, quick }: Given): Promise<string> {
  const numbers = { prompts: prompts.join(','), layers, steps, seconds }
  const words = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, `${value}`])
  const flags = [...(compile ? ['--compile'] : []), ...(quick ? ['--tiny'] : [])]
  try {
    const { stdout } = await promisify(execFile)(python, [SCRIPT, ...words, ...flags], {
      timeout: 1e3 * (seconds + GRACE_SECONDS),
      maxBuffer: 2 ** 26,
    })
    return stdout
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string }
    const why = stderr.trim().split('\n').at(-1) || (error as Error).message
    throw new GorgonError('ERR_OPTION', `${python} cannot run the comparison: ${why}. Name one with --python.`, {
      python,
    })
  }
}

async function main(given: Given): Promise<void> {
  showProgress('PyTorch')
  const { info, measurements } = Output.parse(JSON.parse((await runScript(given)).trim().split('\n').at(-1)!))
  showProgress()
  const { python: _, out, ...options } = given
  const result: BenchResult<TransformersResultOptions, TransformersMeasurement> = {
    schema: 1,
    bench: BENCH,
    command: commandLine(BENCH),
    machine: machineRecord({ isa: info.isa, threads: 1 }),
    options: { ...options, ...info },
    measurements,
  }
  process.stdout.write(Object.values(report([result], () => []).tables).join('\n'))
  process.stdout.write(`\n${await writeResult(result, out)}\n`)
}

await runBench(
  benchCommand(BENCH, 'PyTorch and transformers on the same shape and GPU: decoding, prompts, products, bandwidth.')
    .option('--python <file>', 'a Python that has torch and transformers', 'python3')
    .option('--prompts <list>', 'rows in the cache while decoding', numberList(), [1024, 4096, 16384, 65536])
    .option('--layers <n>', 'of the model', wholeNumber(), 32)
    .option('--steps <n>', 'of each way of decoding', wholeNumber(), 16)
    .option('--seconds <n>', 'after which nothing new is begun', wholeNumber(), 80)
    .option('--compile', 'torch.compile too, for the first prompt: takes a minute or more', false)
    .option('--quick', 'a model of a few thousand weights: only shows that it runs', false)
    .action(main),
)
