// gorgon inspect: what a model folder and its Medusa heads are, for people or as one JSON object.
import { inspect, type ModelReport } from '../index.js'
import { bytes, list } from './format.js'
import { type Io, write } from './io.js'

/** @returns whether the model and its heads would load; what stands in the way is told on standard error. */
export async function inspectFolder(
  folder: string,
  flags: { readonly heads?: string; readonly json?: true },
  io: Io,
): Promise<boolean> {
  const heads = flags.heads === 'none' ? false : flags.heads
  const report = await inspect(folder, heads === undefined ? {} : { heads })
  await write(io.stdout, flags.json ? `${JSON.stringify(report)}\n` : describe(report))
  for (const { code, message } of report.problems) await write(io.stderr, `gorgon: ${code}: ${message}\n`)
  return report.loads
}

type ModelSummary = NonNullable<ModelReport['model']>
type WeightsSummary = NonNullable<ModelReport['weights']>
type HeadsSummary = NonNullable<ModelReport['heads']>
type Entry = readonly [name: string, value: string]

function describe(report: ModelReport): string {
  const { model, weights, heads } = report
  const entries: Entry[] = [
    ['folder', report.path],
    ...(model ? describeModel(model) : []),
    ...(weights ? describeWeights(weights) : []),
    ['tokenizer', report.tokenizer ? 'yes' : 'none: prompts are token ids'],
    ...(heads ? describeHeads(heads) : [['Medusa heads', 'none: plain decoding'] as const]),
    ...[...report.warnings, ...(heads?.warnings ?? [])].map((warning) => ['warning', warning] as const),
    ['loads', report.loads ? 'yes' : 'no'],
  ]
  return list(entries)
}

function describeModel(model: ModelSummary): Entry[] {
  const { rope, slidingWindow } = model
  const ropeParameters = Object.entries(rope).filter(([name, value]) => name !== 'type' && value !== null)
  const features = [
    model.tiedEmbeddings ? 'tied embeddings' : 'untied embeddings',
    model.qkNorm && 'query and key norms',
    model.biases.length > 0 && `biases on ${model.biases.join(', ')}`,
    slidingWindow && `sliding window of ${slidingWindow.positions} in ${slidingWindow.layers} layers`,
  ].filter(Boolean)
  return [
    ['architecture', `${model.architecture}: ${features.join('; ')}`],
    ['size', `${model.layers} layers, hidden ${model.hidden}, ffn ${model.ffn}, vocabulary ${model.vocab}`],
    [
      'attention',
      `${model.attention.toUpperCase()}: ${model.queryHeads} query and ${model.kvHeads} KV heads of ${model.headDim}`,
    ],
    [
      'positions',
      `${model.maxPositions}, RoPE ${rope.type} (${ropeParameters.map(([name, value]) => `${name} ${value}`).join(', ')})`,
    ],
    ['special ids', `BOS ${model.bosId ?? 'none'}, EOS ${model.eosIds.join(', ') || 'none'}`],
  ]
}

function describeWeights(weights: WeightsSummary): Entry[] {
  return [
    [
      'weights',
      `${count(weights.parameters)} parameters, ${weights.dtype}, ${bytes(weights.bytes)}, ${weights.tensors} tensors in ${weights.files} ${weights.files === 1 ? 'file' : 'files'}`,
    ],
    ['', `${bytes(weights.int8Bytes)} with --weights int8`],
    ['KV cache', `${bytes(weights.kvBytesPerToken)} per token, ${bytes(weights.kvBytesPerToken * 1024)} per 1024`],
  ]
}

function describeHeads(heads: HeadsSummary): Entry[] {
  const blocks = `${heads.blocks} ${heads.blocks === 1 ? 'block' : 'blocks'} each`
  const projection = { base: "the model's lm_head", 'per-head': 'a projection each', shared: 'one projection for all' }[
    heads.projection
  ]
  return [
    [
      'Medusa heads',
      `${heads.medusaHeads}, ${blocks}, through ${projection}${heads.tokenMap ? `, over ${heads.vocab} mapped tokens` : ''}`,
    ],
    [
      '',
      `${count(heads.parameters)} parameters, ${heads.dtype}, ${bytes(heads.bytes)}, format ${heads.format}, ${heads.path}`,
    ],
    [
      '',
      heads.accuracy
        ? `best drafts right ${heads.accuracy.map(([first = 0]) => `${Math.round(first * 100)}%`).join(', ')} of the time${heads.grownNodes === null ? '' : `; a tree of ${heads.grownNodes} nodes was grown for them`}`
        : 'no accuracy.json: how often drafts are right is learnt as text is made',
    ],
    ...(heads.baseModel ? [['', `trained on ${heads.baseModel}`] as const] : []),
  ]
}

/** `11.0 M` */
function count(value: number): string {
  const [divisor, unit] = value >= 1e9 ? [1e9, ' G'] : value >= 1e6 ? [1e6, ' M'] : value >= 1e3 ? [1e3, ' K'] : [1, '']
  return `${divisor === 1 ? value : (value / divisor).toFixed(1)}${unit}`
}
