// Tensor names of Medusa heads: which layout a file has, read from the names alone, and the shape each tensor must have.

/**
 * Layouts in use:
 * A: `H.R.linear.weight`, one projection per head `H.N.weight`;
 * B: the same without projections, so the base model's lm_head serves;
 * C: A or B under `medusa_head.`, inside a model's own files;
 * E: `blocks.H.layers.R.weight` with `lm_heads.H.weight`, or one `lm_head.weight` for all heads.
 */
export type HeadsFormat = 'A' | 'B' | 'C' | 'E'

/** Most Medusa heads read: a tree has at most 64 nodes, so no path is longer than 63 drafts. */
export const MAX_MEDUSA_HEADS = 63
/** Most residual blocks in one head. */
export const MAX_BLOCKS = 16

/** Where fused checkpoints keep their heads. */
export const FUSED_PREFIX = 'medusa_head.'

/** The tensor of a reduced vocabulary: row r of the projections is vocabulary id token_map[r]. */
export const TOKEN_MAP = 'token_map'

/** One tensor of the layout. */
export interface HeadTensor {
  /** The name in the file. */
  readonly name: string
  /** The name in `HeadsSpec`: `H.block.R.weight`, `H.block.R.bias`, `H.projection`. */
  readonly role: string
  readonly part: 'weight' | 'bias' | 'projection'
}

export interface HeadsLayout {
  readonly format: Exclude<HeadsFormat, 'C'>
  readonly medusaHeads: number
  /** Residual blocks per head; may be 0. */
  readonly blocks: number
  /** Every tensor by role; a projection that serves all heads appears once per head, under one name. */
  readonly tensors: readonly HeadTensor[]
  /** `base`: none stored, the base model's lm_head serves. */
  readonly projection: 'base' | 'per-head' | 'shared'
  /** Blocks with a bias, of `medusaHeads * blocks`. */
  readonly biasedBlocks: number
  /** Name of the token map, if there is one. */
  readonly tokenMap: string | null
}

/** A layout, or what is wrong with the names, as a sentence without its subject. */
export type Recognition = { readonly layout: HeadsLayout } | { readonly problem: string }

/** Indices without leading zeros, so that one tensor has one name. */
const INDEX = '(0|[1-9]\\d{0,3})'
const PATTERNS: readonly { readonly layout: 'A' | 'E'; readonly pattern: RegExp; readonly part: HeadTensor['part'] }[] =
  [
    { layout: 'A', pattern: new RegExp(`^${INDEX}\\.${INDEX}\\.linear\\.weight$`), part: 'weight' },
    { layout: 'A', pattern: new RegExp(`^${INDEX}\\.${INDEX}\\.linear\\.bias$`), part: 'bias' },
    { layout: 'A', pattern: new RegExp(`^${INDEX}\\.${INDEX}\\.weight$`), part: 'projection' },
    { layout: 'E', pattern: new RegExp(`^blocks\\.${INDEX}\\.layers\\.${INDEX}\\.weight$`), part: 'weight' },
    { layout: 'E', pattern: new RegExp(`^blocks\\.${INDEX}\\.layers\\.${INDEX}\\.bias$`), part: 'bias' },
    { layout: 'E', pattern: new RegExp(`^lm_heads\\.${INDEX}\\.weight$`), part: 'projection' },
  ]
/** One projection for all heads, layout E. */
const SHARED_PROJECTION = 'lm_head.weight'
/** Prefixes that mean nothing more. */
const PREFIX = /^(?:medusa_head\.|medusa_heads\.)/

/**
 * The layout that a file's tensor names spell. Every name must have its place: a name left over means weights that would be dropped.
 *
 * @param names All tensor names of the file, or those of a fused checkpoint that begin with FUSED_PREFIX.
 * @param sharesFirstProjection The configuration says that `lm_heads.0.weight` serves every head.
 */
export function recogniseHeads(names: Iterable<string>, sharesFirstProjection = false): Recognition {
  const weights = new Map<string, string>()
  const biases = new Map<string, string>()
  const projections = new Map<number, { name: string; block: number | null }>()
  const layouts = new Set<'A' | 'E'>()
  const unknown: string[] = []
  let shared: string | null = null
  let tokenMap: string | null = null
  let medusaHeads = 0
  let blocks = 0

  for (const name of names) {
    const bare = name.replace(PREFIX, '')
    if (bare === TOKEN_MAP && tokenMap === null) {
      tokenMap = name
      continue
    }
    if (bare === SHARED_PROJECTION && shared === null) {
      layouts.add('E')
      shared = name
      continue
    }
    const found = PATTERNS.map(({ layout, pattern, part }) => ({ layout, part, match: pattern.exec(bare) })).find(
      (p) => p.match,
    )
    if (!found?.match) {
      unknown.push(name)
      continue
    }
    layouts.add(found.layout)
    const head = Number(found.match[1])
    const block = found.match[2] === undefined ? null : Number(found.match[2])
    medusaHeads = Math.max(medusaHeads, head + 1)
    // A second tensor for one place is left over, like any without a place.
    if (found.part === 'projection') {
      if (projections.has(head)) unknown.push(name)
      else projections.set(head, { name, block })
    } else {
      const parts = found.part === 'weight' ? weights : biases
      const place = `${head}.${block}`
      if (parts.has(place)) unknown.push(name)
      else parts.set(place, name)
      blocks = Math.max(blocks, block! + 1)
    }
  }

  if (layouts.size > 1) return { problem: 'mixes two layouts (H.R.linear.weight and blocks.H.layers.R.weight)' }
  if (unknown.length > 0)
    return { problem: `has tensors that belong to no known layout of Medusa heads: ${listed(unknown)}` }
  if (medusaHeads === 0) return { problem: 'has no Medusa heads' }
  if (medusaHeads > MAX_MEDUSA_HEADS)
    return { problem: `names ${medusaHeads} heads; at most ${MAX_MEDUSA_HEADS} are read` }
  if (blocks > MAX_BLOCKS) return { problem: `names ${blocks} blocks per head; at most ${MAX_BLOCKS} are read` }
  const format = layouts.has('E') ? 'E' : projections.size > 0 ? 'A' : 'B'

  const tensors: HeadTensor[] = []
  const missing: string[] = []
  for (let head = 0; head < medusaHeads; head++) {
    for (let block = 0; block < blocks; block++) {
      const weight = weights.get(`${head}.${block}`)
      const bias = biases.get(`${head}.${block}`)
      if (weight === undefined)
        missing.push(format === 'E' ? `blocks.${head}.layers.${block}.weight` : `${head}.${block}.linear.weight`)
      else tensors.push({ name: weight, role: `${head}.block.${block}.weight`, part: 'weight' })
      if (bias !== undefined) tensors.push({ name: bias, role: `${head}.block.${block}.bias`, part: 'bias' })
    }
  }

  const only = projections.get(0)
  if (shared !== null && projections.size > 0)
    return { problem: 'has both lm_head.weight and lm_heads: which one projects?' }
  if (shared === null && sharesFirstProjection && projections.size === 1 && only) shared = only.name
  for (let head = 0; head < medusaHeads; head++) {
    const own = projections.get(head)
    if (shared !== null) tensors.push({ name: shared, role: `${head}.projection`, part: 'projection' })
    else if (own && own.block !== null && own.block !== blocks) {
      return {
        problem: `has the projection "${own.name}", which does not follow the head's ${blocks} blocks: expected ${head}.${blocks}.weight`,
      }
    } else if (own) tensors.push({ name: own.name, role: `${head}.projection`, part: 'projection' })
    else if (projections.size > 0) missing.push(format === 'E' ? `lm_heads.${head}.weight` : `${head}.${blocks}.weight`)
  }
  if (missing.length > 0)
    return { problem: `names ${medusaHeads} heads of ${blocks} blocks, but lacks ${listed(missing)}` }

  return {
    layout: {
      format,
      medusaHeads,
      blocks,
      tensors,
      projection: shared !== null ? 'shared' : projections.size > 0 ? 'per-head' : 'base',
      biasedBlocks: biases.size,
      tokenMap,
    },
  }
}

/** The shape a tensor must have, for hidden width C and a projection of V' rows. */
export function headTensorShape(part: HeadTensor['part'], hidden: number, rows: number): readonly number[] {
  switch (part) {
    case 'weight':
      return [hidden, hidden]
    case 'bias':
      return [hidden]
    case 'projection':
      return [rows, hidden]
  }
}

/** The first few, quoted, and how many more. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 4).map((name) => JSON.stringify(name))
  return shown.join(', ') + (names.length > shown.length ? ` and ${names.length - shown.length} more` : '')
}
