// Charts say what they were given, at the right height, in bytes that stay the same.
import { describe, expect, test } from 'vitest'
import {
  type BarChart,
  barChart,
  type HeatMap,
  heatMap,
  type LineChart,
  lineChart,
  stackedCharts,
  type TreeChart,
  treeChart,
} from '../src/charts.js'

const lines: LineChart = {
  title: 'Speed <fast> & "slow"',
  x: { label: 'prompt tokens', scale: 'log', ticks: [512, 4096, 12000] },
  y: { label: 'tokens/s' },
  series: [
    {
      name: 'plain',
      points: [
        { x: 512, y: 100 },
        { x: 12000, y: 50, low: 40, high: 60 },
      ],
    },
    {
      name: 'Medusa',
      points: [
        { x: 512, y: 200 },
        { x: 12000, y: 150 },
      ],
    },
  ],
  guides: [{ y: 75, label: 'floor' }],
}

const bars: BarChart = {
  title: 'Bars',
  y: { label: 'ms' },
  groups: [
    {
      name: 'first',
      bars: [
        { series: 'a', value: 3 },
        { series: 'b', value: 6, low: 5, high: 7 },
      ],
    },
    { name: 'second', bars: [{ series: 'a', value: 1.5 }] },
  ],
}

const heat: HeatMap = {
  title: 'Heat',
  x: { label: 'length', names: ['4K', '8K'] },
  y: { label: 'depth', names: ['0%', '100%'] },
  values: [
    [0, 1],
    [null, 0.5],
  ],
  from: 0,
  to: 1,
}

const stacked = () => stackedCharts([lineChart(lines), barChart(bars), heatMap(heat)])
const all = { lines: () => lineChart(lines), bars: () => barChart(bars), heat: () => heatMap(heat), stacked }

describe.each(Object.entries(all))('%s', (_, draw) => {
  test('are well-formed: every tag that opens closes, and no text breaks out', () => {
    const svg = draw()
    const open: string[] = []
    for (const [, slash, name, rest] of svg.matchAll(/<(\/?)([a-z]+)([^<>]*)>/g)) {
      if (slash) expect(open.pop()).toBe(name)
      else if (!rest!.endsWith('/')) open.push(name!)
    }
    expect(open).toEqual([])
    expect(svg.match(/[<>]/g)!.length % 2).toBe(0)
  })

  test('have finite coordinates and the same bytes each time', () => {
    expect(draw()).not.toMatch(/NaN|Infinity|undefined/)
    expect(draw()).toBe(draw())
  })
})

const rects = (svg: string) =>
  [...svg.matchAll(/<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" fill="([^"]+)"/g)].map(
    ([, x, y, width, height, fill]) => ({ x: +x!, y: +y!, width: +width!, height: +height!, fill }),
  )

test('names, labels and ticks are there as text, escaped', () => {
  const svg = lineChart(lines)
  for (const text of [
    'Speed &lt;fast&gt; &amp; &quot;slow&quot;',
    'plain',
    'Medusa',
    'floor',
    'tokens/s',
    '512',
    '12000',
  ])
    expect(svg).toContain(`>${text}</text>`)
})

test('larger values lie higher, and equal distances on a log scale are equal ratios', () => {
  const dots = [
    ...lineChart({ ...lines, series: [{ name: 'one', points: [512, 1024, 2048].map((x, y) => ({ x, y })) }] }).matchAll(
      /<circle cx="([\d.]+)" cy="([\d.]+)"/g,
    ),
  ].map(([, x, y]) => [Number(x), Number(y)] as const)
  expect(dots[0]![1]).toBeGreaterThan(dots[1]![1])
  expect(dots[1]![1]).toBeGreaterThan(dots[2]![1])
  expect(dots[1]![0] - dots[0]![0]).toBeCloseTo(dots[2]![0] - dots[1]![0], 0)
})

test('bars are as high as their values, and start at zero', () => {
  const drawn = rects(barChart(bars)).filter((rect) => rect.width > 12)
  expect(drawn).toHaveLength(3)
  expect(drawn[1]!.height / drawn[0]!.height).toBeCloseTo(2, 1)
  expect(drawn[0]!.height / drawn[2]!.height).toBeCloseTo(2, 1)
  expect(drawn[2]!.fill).toBe(drawn[0]!.fill)
})

test('cells go from pale to dark; one without a value is empty', () => {
  const svg = heatMap(heat)
  const fills = rects(svg).map((rect) => rect.fill)
  expect(fills).toEqual(['rgb(255,255,217)', 'rgb(8,29,88)', 'none', 'rgb(65,182,196)'])
  expect(svg).toContain('class="pale">1</text>')
  expect(svg).toContain('class="dark">0</text>')
})

test('charts of nothing, of one point and of a flat line still draw', () => {
  expect(lineChart({ ...lines, series: [], guides: [] })).not.toMatch(/NaN|Infinity/)
  expect(lineChart({ ...lines, series: [{ name: 'a', points: [{ x: 1, y: 0 }] }], guides: [] })).not.toMatch(
    /NaN|Infinity/,
  )
  expect(barChart({ ...bars, groups: [] })).not.toMatch(/NaN|Infinity/)
})

test('what has no room is broken or left out, not drawn over', () => {
  const names = Array.from({ length: 12 }, (_, i) => `a long name, ${i} tokens`)
  const svg = barChart({ ...bars, groups: names.map((name) => ({ name, bars: bars.groups[0]!.bars })) })
  expect(svg.match(/>a long name<\/text>/g)).toHaveLength(12)
  expect(svg).toContain('>11 tokens</text>')
  const many = Array.from({ length: 40 }, (_, i) => ({ series: `s${i}`, value: 1.37 }))
  expect(
    barChart({
      ...bars,
      groups: [
        { name: 'all', bars: many },
        { name: 'more', bars: many },
      ],
    }),
  ).not.toContain('>1.37</text>')
})

test('charts stand one below the other in a document as high as all of them', () => {
  const svg = stacked()
  const heights = [...svg.matchAll(/<svg [^>]*height="([\d.]+)"/g)].map(([, height]) => Number(height))
  const tops = [...svg.matchAll(/<svg y="([\d.]+)"/g)].map(([, y]) => Number(y))
  const [whole, ...parts] = heights
  expect(parts.length).toBe(3)
  expect(tops).toEqual([0, parts[0], parts[0]! + parts[1]!])
  expect(whole).toBe(parts.reduce((sum, height) => sum + height, 0))
})

describe('treeChart', () => {
  const node = (parent: number, label: string, width = 0.5, shade = 0.5) => ({ parent, label, width, shade })
  const chart: TreeChart = {
    title: 'A tree <of> drafts',
    nodes: [node(-1, ''), node(0, '0', 1, 1), node(0, '1', 0), node(1, '0'), node(1, '1'), node(2, '<')],
    rows: ['next', 'head 1', 'head 2'],
    notes: ['first note', 'second note'],
  }
  const circles = (svg: string) =>
    [...svg.matchAll(/<circle [^>]*cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"/g)].map(([, x, y, r]) => ({
      x: Number(x),
      y: Number(y),
      r: Number(r),
    }))

  test('stands nodes below one another by depth, parents above the middle of their children, siblings in order', () => {
    const [root, left, right, ...leaves] = circles(treeChart(chart))
    expect(leaves.map(({ y }) => y)).toEqual([leaves[0]!.y, leaves[0]!.y, leaves[0]!.y])
    expect(root!.y).toBeLessThan(left!.y)
    expect(left!.y).toBe(right!.y)
    expect(left!.x).toBeCloseTo((leaves[0]!.x + leaves[1]!.x) / 2, 0)
    expect(right!.x).toBe(leaves[2]!.x)
    expect(root!.x).toBeCloseTo((left!.x + right!.x) / 2, 0)
    expect(leaves[0]!.x).toBeLessThan(leaves[1]!.x)
  })

  test('draws wider and darker what is more', () => {
    const svg = treeChart(chart)
    const widths = [...svg.matchAll(/stroke-width:([\d.]+)"/g)].map(([, width]) => Number(width))
    expect(widths).toHaveLength(5)
    expect(widths[0]).toBe(Math.max(...widths))
    expect(widths[1]).toBe(Math.min(...widths))
    expect(svg).toContain('class="pale"')
    expect(svg).toContain('class="dark"')
  })

  test('has room for sixty-three leaves, side by side', () => {
    const many = circles(
      treeChart({ ...chart, nodes: [node(-1, ''), ...Array.from({ length: 63 }, () => node(0, '9'))], rows: [] }),
    ).slice(1)
    for (const [i, { x, r }] of many.entries()) {
      if (i > 0) expect(x - many[i - 1]!.x).toBeGreaterThan(2 * r - 0.5)
    }
    expect(many.at(-1)!.x).toBeLessThan(720)
  })

  test('says its names and notes, and the same again', () => {
    const svg = treeChart(chart)
    for (const words of ['A tree &lt;of&gt; drafts', 'head 2', 'second note', '&lt;']) expect(svg).toContain(words)
    expect(treeChart(chart)).toBe(svg)
    expect(circles(treeChart({ ...chart, nodes: [node(-1, '')] }))).toHaveLength(1)
  })
})
