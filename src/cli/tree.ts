// gorgon tree: how good a model's Medusa heads are, and which tree of drafts is best with them, here.
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import {
  type Calibration,
  type CalibrationProgress,
  type Check,
  calibrateHeads,
  type SizeRate,
  type WrittenFile,
  writeCalibration,
} from '../../heads/index.js'
import { fixed, percent } from '../numbers.js'
import { type Given, readCalibrateOptions } from './args.js'
import { placeOf, table } from './format.js'
import { type Io, write } from './io.js'
import { checkFolder } from './output-file.js'
import { createProgress } from './progress.js'

/** What a bar is called while it goes on. */
const PHASES = {
  load: 'loading',
  read: 'reading texts',
  trace: 'judging drafts',
  grow: 'growing the tree',
  check: 'checking it',
} as const

/** Calibrates, prints what was found, and writes it where the user named a folder. */
export async function tree(given: Given, io: Io): Promise<void> {
  const { out: asked, json } = given as { readonly out?: string; readonly json?: true }
  const options = readCalibrateOptions(given)
  const out = asked ?? (options.heads === undefined ? undefined : await folderOf(options.heads))
  if (out !== undefined) await checkFolder(asked === undefined ? '--heads' : '--out', out)

  const progress = createProgress(io.stderr)
  let calibration: Calibration
  try {
    const onProgress = ({ phase, done, total }: CalibrationProgress) => progress.show(PHASES[phase], done, total)
    calibration = await calibrateHeads({ ...options, signal: io.signal, onProgress })
  } finally {
    progress.clear()
  }
  for (const warning of calibration.info.warnings) await write(io.stderr, `gorgon: warning: ${warning}\n`)
  const files = out === undefined ? [] : await writeCalibration(out, calibration)
  await write(io.stdout, json ? `${JSON.stringify(asJson(calibration, files))}\n` : describe(calibration, files))
}

/** Heads may be named by their file. */
async function folderOf(heads: string): Promise<string> {
  const found = await stat(heads).catch(() => null)
  return found?.isFile() ? dirname(heads) : heads
}

function asJson({ info, ...calibration }: Calibration, files: readonly WrittenFile[]): object {
  const { model, backend, isa, device, dtype, weights, threads, heads } = info
  return {
    ...calibration,
    heads: heads?.path,
    engine: { model, backend, isa, device: device?.name ?? null, dtype, weights, threads },
    files,
  }
}

const SLOWER =
  '\nplain decoding is faster here than this tree: with "--tree auto" the engine stays with it, until heads are better or steps cheaper\n'

/** Of the tree that was chosen, where costs were measured. */
function isSlower({ sizes, tree }: Calibration): boolean {
  const chosen = sizes.find(({ nodes }) => nodes === tree.nodes)
  return chosen?.speedup != null && chosen.speedup < 1
}

/** What was found, for people. */
function describe(calibration: Calibration, files: readonly WrittenFile[]): string {
  const { conditions, info, sizes, tree, cacheRows, fastest, checks } = calibration
  const { texts, heldOut, positions, tokens, temperatures, kv } = conditions
  const drawn = temperatures.map((one) => (one === 0 ? 'greedy' : `temperature ${one}`)).join(' and ')
  return [
    `${info.heads?.path} on ${placeOf(info)}\n`,
    `${texts} texts to grow from, of ${tokens} tokens at most, ${positions} together, and ${heldOut} to check on; ${drawn}; ${kv.policy} cache\n`,
    '\nhow often drafts are right: the best, and one among the 5 or 10 best\n',
    table(headRows(calibration)),
    `\ntrees that were grown, with ${cacheRows} rows of cache\n`,
    table(sizeRows(sizes, tree.nodes)),
    ...(isSlower(calibration) ? [SLOWER] : []),
    ...(fastest.length > 1 ? ['\nthe fastest, by rows of cache\n', table(fastestRows(fastest))] : []),
    `\nthe tree of ${tree.nodes} nodes: promised by the texts it was grown from, measured on the others\n`,
    table(checkRows(checks)),
    files.length === 0
      ? '\nnothing was written: --out DIR takes accuracy.json, tree.json and tree.svg\n'
      : `\n${files.map(({ file, replaced }) => `${file}${replaced ? ' (replaced)' : ''}\n`).join('')}`,
  ].join('')
}

function headRows({ accuracy }: Calibration): string[][] {
  return [
    ['head', 'judged', 'best', 'of 5', 'of 10'],
    ...accuracy.rank_accuracy.map((row, head) => [
      String(head + 1),
      String(accuracy.counts?.[head] ?? ''),
      ...[1, 5, 10].map((count) =>
        percent(
          row.slice(0, count).reduce((sum, share) => sum + share, 0),
          1,
        ),
      ),
    ]),
  ]
}

function sizeRows(sizes: readonly SizeRate[], chosen: number): string[][] {
  return [
    ['nodes', 'depth', 'tokens/step', 'as mc_sim_7b_63', 'ms/step', 'tokens/s', 'x plain'],
    ...sizes.map(({ nodes, depth, tokensPerStep, unmeasured, stepMs, tokensPerSecond, speedup }) => [
      `${nodes}${nodes === chosen ? ' *' : ''}`,
      String(depth),
      fixed(tokensPerStep, 2),
      fixed(unmeasured, 2),
      fixed(stepMs, 2),
      fixed(tokensPerSecond),
      fixed(speedup, 2),
    ]),
  ]
}

function fastestRows(fastest: Calibration['fastest']): string[][] {
  return [
    ['cache', ...fastest.map(({ cacheRows }) => String(cacheRows))],
    ['nodes', ...fastest.map(({ nodes }) => String(nodes))],
    ['x plain', ...fastest.map(({ speedup }) => fixed(speedup, 2))],
  ]
}

function checkRows(checks: readonly Check[]): string[][] {
  const rate = (of: Check['measured']): string =>
    of ? `${fixed(of.tokensPerStep, 2)}${of.standardError === null ? '' : ` ± ${fixed(of.standardError, 2)}`}` : '–'
  return [
    ['', 'tokens/step promised', 'measured', 'off by', 'x plain promised', 'measured'],
    ...checks.map(({ temperature, predicted, measured, predictedSpeedup, measuredSpeedup }) => [
      temperature === 0 ? 'greedy' : `temperature ${temperature}`,
      rate(predicted),
      rate(measured),
      measured ? `${fixed(100 * (predicted.tokensPerStep / measured.tokensPerStep - 1), 1)}%` : '–',
      fixed(predictedSpeedup, 2),
      fixed(measuredSpeedup, 2),
    ]),
  ]
}
