// Charts as SVG text, for whoever has numbers to show: lines, bars, heat maps and trees. The same data give the same bytes; legible on light and dark pages.

export interface Point {
  readonly x: number
  readonly y: number
  /** Ends of a whisker around `y`. */
  readonly low?: number
  readonly high?: number
}

export interface Axis {
  readonly label: string
  readonly scale?: 'linear' | 'log'
  /** Where numbers stand; chosen when left out. */
  readonly ticks?: readonly number[]
}

export interface LineChart {
  readonly title: string
  readonly x: Axis
  readonly y: Axis
  readonly series: readonly { readonly name: string; readonly points: readonly Point[] }[]
  /** Dashed lines across, such as a floor or a baseline. */
  readonly guides?: readonly { readonly y: number; readonly label: string }[]
}

export interface BarChart {
  readonly title: string
  readonly y: Omit<Axis, 'scale'>
  readonly groups: readonly {
    readonly name: string
    readonly bars: readonly {
      readonly series: string
      readonly value: number
      readonly low?: number
      readonly high?: number
    }[]
  }[]
  readonly guides?: LineChart['guides']
}

export interface HeatMap {
  readonly title: string
  readonly x: { readonly label: string; readonly names: readonly string[] }
  readonly y: { readonly label: string; readonly names: readonly string[] }
  /** [y][x]; null where nothing was measured. */
  readonly values: readonly (readonly (number | null)[])[]
  /** Values of the palest and of the darkest cell. */
  readonly from: number
  readonly to: number
  /** What stands in a cell. */
  readonly format?: (value: number) => string
}

export interface TreeChart {
  readonly title: string
  /** The root first, each node after its parent. Siblings stand in the order given. */
  readonly nodes: readonly {
    /** Index of its parent; -1 for the root. */
    readonly parent: number
    readonly label: string
    /** Width of the edge from its parent, 0 to 1. */
    readonly width: number
    /** How dark it is, 0 to 1. */
    readonly shade: number
  }[]
  /** By depth, the root's first. */
  readonly rows: readonly string[]
  /** Lines below. */
  readonly notes: readonly string[]
}

const WIDTH = 720
const PLOT = { left: 68, right: WIDTH - 20, height: 280 } as const
const TITLE_Y = 24
const LEGEND_Y = 46
const LINE_HEIGHT = 18
/** From one depth of a tree to the next. */
const TREE_ROW = 72
/** Below the plot: tick labels and the axis's own. */
const FOOT = 46
/** Of a 12 px letter, about: enough to wrap a legend. */
const LETTER = 7

/** Told apart also by those who see few colours (Okabe and Ito); repeated with dashes. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'] as const
const DASHES = ['', '6 3', '2 3'] as const

const STYLE = `<style>
text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#24292f}
.title{font-size:15px;font-weight:600}.grid{stroke:#d0d7de;stroke-width:1}.axis{stroke:#57606a;stroke-width:1}
.guide{stroke:#57606a;stroke-width:1;stroke-dasharray:5 4}.line{fill:none;stroke-width:2}.whisker{stroke-width:1.2;fill:none}
.error{stroke:#24292f;stroke-width:1.2;fill:none}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#30363d}.axis,.guide{stroke:#9198a1}.error{stroke:#e6edf3}}
.pale{fill:#fff}.dark{fill:#1b1f24}
</style>`

/** Lines over a common axis, a whisker at each point that has one. */
export function lineChart(chart: LineChart): string {
  const points = chart.series.flatMap((series) => series.points)
  const guides = chart.guides ?? []
  const legend = legendOf(chart.series.map((series, i) => ({ name: series.name, mark: lineMark(i) })))
  const top = legend.bottom
  const bottom = top + PLOT.height
  const x = scaleOf(
    chart.x,
    points.map((point) => point.x),
    [PLOT.left + 16, PLOT.right - 16],
  )
  const heights = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y])
  const y = scaleOf(chart.y, [...heights, ...guides.map((guide) => guide.y)], [bottom, top], { fromZero: true })

  const lines = chart.series.map(({ points: own }, i) => {
    const at = own.map((point) => `${n(x.at(point.x))},${n(y.at(point.y))}`)
    const whiskers = own.map((point) =>
      point.low === undefined || point.high === undefined
        ? ''
        : whisker(x.at(point.x), y.at(point.low), y.at(point.high), 'whisker', ` stroke="${colour(i)}"`),
    )
    const dots = at.map((place) => {
      const [cx, cy] = place.split(',')
      return `<circle cx="${cx}" cy="${cy}" r="3" fill="${colour(i)}"/>`
    })
    return `<polyline class="line" points="${at.join(' ')}" ${stroke(i)}/>${whiskers.join('')}${dots.join('')}`
  })
  return document(bottom + FOOT, chart.title, [
    frame({ chart, x, y, top, bottom }),
    ...x.ticks.map((tick) => text(x.at(tick), bottom + 18, number(tick), 'middle')),
    ...guides.map((guide) => guideLine(guide, y)),
    ...lines,
    legend.svg,
  ])
}

/** Bars side by side in groups; a series has the same colour in every group. */
export function barChart(chart: BarChart): string {
  const names = [...new Set(chart.groups.flatMap((group) => group.bars.map((bar) => bar.series)))]
  const bars = chart.groups.flatMap((group) => group.bars)
  const guides = chart.guides ?? []
  const legend = legendOf(names.map((name, i) => ({ name, mark: barMark(i) })))
  const top = legend.bottom
  const bottom = top + PLOT.height
  const heights = bars.flatMap((bar) => [bar.value, bar.high ?? bar.value])
  const y = scaleOf(chart.y, [...heights, ...guides.map((guide) => guide.y)], [bottom, top], { fromZero: true })

  const groupWidth = (PLOT.right - PLOT.left) / Math.max(1, chart.groups.length)
  const barWidth = Math.min(64, (groupWidth * 0.8) / Math.max(1, names.length))
  const shown = (value: number): string => number(Number(value.toPrecision(3)))
  // All bars say their value, or none does.
  const hasRoom = bars.every((bar) => shown(bar.value).length * LETTER <= barWidth + 4)
  // Names too long to stand side by side are broken at their commas.
  const isTight = chart.groups.some((group) => group.name.length * LETTER > groupWidth)
  const nameLines = chart.groups.map((group) => (isTight ? group.name.split(/, */) : [group.name]))
  const extraLines = Math.max(1, ...nameLines.map((lines) => lines.length)) - 1
  const drawn = chart.groups.flatMap((group, g) => {
    const middle = PLOT.left + groupWidth * (g + 0.5)
    const left = middle - (barWidth * names.length) / 2
    return [
      ...nameLines[g]!.map((line, i) => text(middle, bottom + 18 + 15 * i, line, 'middle')),
      ...group.bars.map((bar) => {
        const series = names.indexOf(bar.series)
        const x = left + barWidth * series
        const above = y.at(bar.high ?? bar.value) - 4
        const error =
          bar.low === undefined || bar.high === undefined
            ? ''
            : whisker(x + barWidth / 2, y.at(bar.low), y.at(bar.high), 'error')
        const box = `x="${n(x + 1)}" y="${n(y.at(bar.value))}" width="${n(barWidth - 2)}" height="${n(bottom - y.at(bar.value))}"`
        const label = hasRoom ? text(x + barWidth / 2, above, shown(bar.value), 'middle') : ''
        return `<rect ${box} fill="${colour(series)}"${series < COLOURS.length ? '' : ' fill-opacity="0.6"'}/>${error}${label}`
      }),
    ]
  })
  return document(bottom + FOOT - 18 + 15 * extraLines, chart.title, [
    frame({ chart, y, top, bottom }),
    ...guides.map((guide) => guideLine(guide, y)),
    ...drawn,
    legend.svg,
  ])
}

/** A grid of numbers, darker where they are larger. */
export function heatMap(chart: HeatMap): string {
  const format = chart.format ?? ((value) => number(Number(value.toPrecision(3))))
  const left = 24 + LINE_HEIGHT + LETTER * Math.max(0, ...chart.y.names.map((name) => name.length))
  const cell = { width: (PLOT.right - left) / Math.max(1, chart.x.names.length), height: 26 }
  const top = LEGEND_Y
  const bottom = top + cell.height * chart.y.names.length
  const cells = chart.values.flatMap((row, y) =>
    row.map((value, x) => {
      const at = { x: left + cell.width * x, y: top + cell.height * y }
      const share = value === null ? 0 : clamp((value - chart.from) / (chart.to - chart.from || 1))
      const box = `x="${n(at.x)}" y="${n(at.y)}" width="${n(cell.width - 1)}" height="${n(cell.height - 1)}"`
      if (value === null) return `<rect ${box} fill="none" class="axis" stroke-dasharray="2 2"/>`
      const ink = share > 0.5 ? 'pale' : 'dark'
      const label = text(at.x + cell.width / 2, at.y + cell.height / 2 + 4, format(value), 'middle', ink)
      return `<rect ${box} fill="${shade(share)}"/>${label}`
    }),
  )
  return document(bottom + FOOT, chart.title, [
    ...cells,
    ...chart.y.names.map((name, y) => text(left - 8, top + cell.height * (y + 0.5) + 4, name, 'end')),
    ...chart.x.names.map((name, x) => text(left + cell.width * (x + 0.5), bottom + 18, name, 'middle')),
    text((left + PLOT.right) / 2, bottom + 38, chart.x.label, 'middle'),
    upright(16, (top + bottom) / 2, chart.y.label),
  ])
}

/** Nodes by depth, the root above. */
export function treeChart({ title, nodes, rows, notes }: TreeChart): string {
  const children = nodes.map((): number[] => [])
  const depths: number[] = []
  nodes.forEach(({ parent }, node) => {
    children[parent]?.push(node)
    depths[node] = parent < 0 ? 0 : depths[parent]! + 1
  })
  const leafCount = children.filter((own) => own.length === 0).length
  const space = (PLOT.right - PLOT.left) / leafCount
  const radius = Math.min(11, space * 0.46)
  const x: number[] = []
  let leaves = 0
  const place = (node: number): number => {
    const own = children[node]!.map(place)
    const at = own.length > 0 ? (own[0]! + own.at(-1)!) / 2 : PLOT.left + space * (leaves++ + 0.5)
    x[node] = at
    return at
  }
  place(0)
  const y = (depth: number): number => LEGEND_Y + radius + TREE_ROW * depth
  const bottom = y(Math.max(...depths)) + radius
  const edges = nodes.map(({ parent, width }, node) => {
    if (parent < 0) return ''
    const ends = `x1="${n(x[parent]!)}" y1="${n(y(depths[parent]!))}" x2="${n(x[node]!)}" y2="${n(y(depths[node]!))}"`
    return `<line class="axis" ${ends} style="stroke-width:${n(0.5 + 5.5 * clamp(width))}"/>`
  })
  const discs = nodes.map(({ label, shade: darkness }, node) => {
    const [cx, cy] = [x[node]!, y(depths[node]!)]
    const disc = `<circle class="axis" cx="${n(cx)}" cy="${n(cy)}" r="${n(radius)}" fill="${shade(clamp(darkness))}"/>`
    const ink = `class="${darkness > 0.5 ? 'pale' : 'dark'}" style="font-size:${n(radius * 1.2)}px"`
    return `${disc}<text x="${n(cx)}" y="${n(cy + radius * 0.4)}" text-anchor="middle" ${ink}>${escaped(label)}</text>`
  })
  const firstNote = bottom + LINE_HEIGHT + 8
  return document(firstNote + LINE_HEIGHT * notes.length, title, [
    ...rows.map((name, depth) => text(PLOT.left - 8, y(depth) + 4, name, 'end')),
    ...edges,
    ...discs,
    ...notes.map((note, i) => text(PLOT.left, firstNote + LINE_HEIGHT * i, note, 'start')),
  ])
}

/** Charts one below the other, as one document. */
export function stackedCharts(charts: readonly string[]): string {
  let height = 0
  const placed = charts.map((chart) => {
    const at = n(height)
    height += Number(/ height="([\d.]+)"/.exec(chart)![1])
    return chart.replace('<svg ', `<svg y="${at}" `)
  })
  const size = `width="${WIDTH}" height="${n(height)}" viewBox="0 0 ${WIDTH} ${n(height)}"`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>\n${placed.join('')}</svg>\n`
}

interface Scale {
  readonly ticks: readonly number[]
  at(value: number): number
}

function scaleOf(
  axis: Axis,
  values: readonly number[],
  [begin, end]: readonly [number, number],
  { fromZero = false }: { readonly fromZero?: boolean } = {},
): Scale {
  const known = values.filter(Number.isFinite)
  const lowest = known.length > 0 ? Math.min(...known) : 0
  const highest = known.length > 0 ? Math.max(...known) : 1
  if (axis.scale === 'log') {
    const ticks = axis.ticks ?? logTicks(lowest, highest)
    const [low, high] = [Math.log(Math.min(lowest, ...ticks)), Math.log(Math.max(highest, ...ticks))]
    const at = (value: number): number => begin + ((Math.log(value) - low) / (high - low || 1)) * (end - begin)
    return { ticks, at }
  }
  const ticks = axis.ticks ?? linearTicks(fromZero ? Math.min(0, lowest) : lowest, highest)
  const [low, high] = [Math.min(lowest, ...ticks), Math.max(highest, ...ticks)]
  return { ticks, at: (value) => begin + ((value - low) / (high - low || 1)) * (end - begin) }
}

/** Four to eight round numbers that hold both ends. */
function linearTicks(low: number, high: number): number[] {
  const rough = (high - low || Math.abs(high) || 1) / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10)
  const first = Math.floor(low / step + 1e-9)
  const last = Math.ceil(high / step - 1e-9)
  return Array.from({ length: last - first + 1 }, (_, i) => round((first + i) * step))
}

/** Powers of ten that hold both ends; of two where that would be fewer than three. */
function logTicks(low: number, high: number): number[] {
  const base = high / low >= 100 ? 10 : 2
  const log = (value: number): number => Math.log(value) / Math.log(base)
  const first = Math.floor(log(low) + 1e-9)
  const last = Math.ceil(log(high) - 1e-9)
  return Array.from({ length: last - first + 1 }, (_, i) => round(base ** (first + i)))
}

function frame({
  chart,
  x,
  y,
  top,
  bottom,
}: {
  readonly chart: { readonly x?: Axis; readonly y: Axis }
  readonly x?: Scale
  readonly y: Scale
  readonly top: number
  readonly bottom: number
}): string {
  const across = (at: number, kind: string): string =>
    `<line class="${kind}" x1="${PLOT.left}" x2="${PLOT.right}" y1="${n(at)}" y2="${n(at)}"/>`
  return [
    ...y.ticks.map((tick) => across(y.at(tick), 'grid') + text(PLOT.left - 8, y.at(tick) + 4, number(tick), 'end')),
    ...(x?.ticks ?? []).map(
      (tick) =>
        `<line class="axis" x1="${n(x!.at(tick))}" x2="${n(x!.at(tick))}" y1="${n(bottom)}" y2="${n(bottom + 4)}"/>`,
    ),
    across(bottom, 'axis'),
    chart.x ? text((PLOT.left + PLOT.right) / 2, bottom + 38, chart.x.label, 'middle') : '',
    upright(16, (top + bottom) / 2, chart.y.label),
  ].join('\n')
}

function guideLine(guide: { readonly y: number; readonly label: string }, y: Scale): string {
  const at = y.at(guide.y)
  const line = `<line class="guide" x1="${PLOT.left}" x2="${PLOT.right}" y1="${n(at)}" y2="${n(at)}"/>`
  return line + text(PLOT.right, at - 4, guide.label, 'end')
}

/** Names with their marks, in as many lines as they need. */
function legendOf(entries: readonly { readonly name: string; readonly mark: (x: number, y: number) => string }[]): {
  readonly svg: string
  readonly bottom: number
} {
  let x = PLOT.left
  let y = LEGEND_Y
  const parts: string[] = []
  for (const { name, mark } of entries) {
    const width = 30 + name.length * LETTER + 14
    if (x > PLOT.left && x + width > PLOT.right) {
      x = PLOT.left
      y += LINE_HEIGHT
    }
    parts.push(mark(x, y) + text(x + 30, y, name, 'start'))
    x += width
  }
  return { svg: parts.join('\n'), bottom: y + LINE_HEIGHT + 2 }
}

const lineMark =
  (series: number) =>
  (x: number, y: number): string =>
    `<line class="line" x1="${n(x)}" x2="${n(x + 24)}" y1="${n(y - 4)}" y2="${n(y - 4)}" ${stroke(series)}/>`

const barMark =
  (series: number) =>
  (x: number, y: number): string =>
    `<rect x="${n(x + 10)}" y="${n(y - 10)}" width="12" height="12" fill="${colour(series)}"${series < COLOURS.length ? '' : ' fill-opacity="0.6"'}/>`

function whisker(x: number, low: number, high: number, kind: string, attributes = ''): string {
  const cap = (y: number): string => `M${n(x - 3)} ${n(y)}h6`
  return `<path class="${kind}" d="M${n(x)} ${n(low)}V${n(high)}${cap(low)}${cap(high)}"${attributes}/>`
}

const colour = (series: number): string => COLOURS[series % COLOURS.length]!

function stroke(series: number): string {
  const dash = DASHES[Math.floor(series / COLOURS.length) % DASHES.length]
  return `stroke="${colour(series)}"${dash ? ` stroke-dasharray="${dash}"` : ''}`
}

/** Pale yellow over teal to dark blue. */
const SHADES = [
  [255, 255, 217],
  [65, 182, 196],
  [8, 29, 88],
] as const

function shade(share: number): string {
  const at = share * (SHADES.length - 1)
  const [from, to] = [SHADES[Math.floor(at)]!, SHADES[Math.min(SHADES.length - 1, Math.floor(at) + 1)]!]
  const mixed = from.map((value, i) => Math.round(value + (to[i]! - value) * (at - Math.floor(at))))
  return `rgb(${mixed.join(',')})`
}

function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end', kind = ''): string {
  return `<text x="${n(x)}" y="${n(y)}" text-anchor="${anchor}"${kind && ` class="${kind}"`}>${escaped(content)}</text>`
}

function upright(x: number, y: number, content: string): string {
  return `<text transform="translate(${n(x)} ${n(y)}) rotate(-90)" text-anchor="middle">${escaped(content)}</text>`
}

function document(height: number, title: string, parts: readonly string[]): string {
  const body = [STYLE, text(PLOT.left, TITLE_Y, title, 'start', 'title'), ...parts].filter(Boolean).join('\n')
  const size = `width="${WIDTH}" height="${n(height)}" viewBox="0 0 ${WIDTH} ${n(height)}"`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" aria-label="${escaped(title)}">\n${body}\n</svg>\n`
}

const escaped = (content: string): string =>
  content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

/** A coordinate: a tenth of a pixel is enough. */
const n = (value: number): string => String(Math.round(value * 10) / 10 || 0)

/** Rid of the dust of binary fractions. */
const round = (value: number): number => Number(value.toPrecision(10))

/** A number on an axis. */
const number = (value: number): string => String(round(value))

const clamp = (value: number): number => Math.min(1, Math.max(0, value))
