// gorgon heads convert: Medusa heads from one published layout to another.
import { type ConvertReport, convertHeads } from '../../heads/index.js'
import { bytes, list } from './format.js'
import { type Io, write } from './io.js'
import { createProgress } from './progress.js'

interface Flags {
  readonly to: 'A' | 'B' | 'E'
  readonly out: string
  readonly model?: string
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16'
  readonly force?: true
  readonly json?: true
}

export async function convert(source: string, flags: Flags, io: Io): Promise<void> {
  const { to, out, model, dtype, force = false } = flags
  const progress = createProgress(io.stderr)
  let report: ConvertReport
  try {
    report = await convertHeads({
      source,
      to,
      out,
      ...(model === undefined ? {} : { model }),
      dtype,
      force,
      signal: io.signal,
      onProgress: ({ done, total }) => progress.show('converting', done, total),
    })
  } finally {
    progress.clear()
  }
  await write(io.stdout, flags.json ? `${JSON.stringify(report)}\n` : describe(report))
}

function describe(report: ConvertReport): string {
  const { medusaHeads, blocks, projection, mappedTokens } = report
  const projected = {
    base: "the model's lm_head",
    'per-head': 'a projection each',
    shared: 'one projection for all',
  }[projection]
  const mapped = mappedTokens === null ? '' : `, over ${mappedTokens} mapped tokens`
  const size = `${blocks} ${blocks === 1 ? 'block' : 'blocks'} each, ${report.bias ? 'biases' : 'no biases'}`
  return list([
    ['Medusa heads', `${medusaHeads}, ${size}, through ${projected}${mapped}`],
    ['from', `layout ${report.from}, ${report.source}`],
    ['to', `layout ${report.to}, ${report.out}`],
    ['', `${bytes(report.bytes)} of ${report.dtypes.join(' and ').toLowerCase()}`],
    ...report.warnings.map((warning) => ['warning', warning] as const),
  ])
}
