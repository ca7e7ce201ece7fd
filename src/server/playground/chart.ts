// One small line chart of uPlot, in the page's colours and as wide as its place.
import type { Points } from './buckets.js'
import uPlot from './uplot.js'

const HEIGHT = 104

/** A colour of style.css, as it is now: light or dark. */
const colour = (name: string) => () => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

export class Chart {
  readonly #place: HTMLElement
  readonly #plot: uPlot

  constructor(place: HTMLElement, showX: (value: number) => string) {
    this.#place = place
    const font = '11px system-ui, sans-serif'
    const axis = {
      font,
      stroke: colour('soft'),
      grid: { stroke: colour('line'), width: 1 },
      ticks: { show: false },
      gap: 4,
    } as const
    this.#plot = new uPlot(
      {
        width: Math.max(1, place.clientWidth),
        height: HEIGHT,
        padding: [6, 10, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false }, y: { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.1)] } },
        axes: [
          { ...axis, size: 20, grid: { show: false }, values: (_, values) => values.map(showX) },
          { ...axis, size: 38, space: 24 },
        ],
        series: [
          {},
          {
            stroke: colour('accent'),
            width: 1.5,
            points: { show: (plot) => plot.data[0].length < 2, size: 4 },
          },
        ],
      },
      [[], []],
      place,
    )
    new ResizeObserver(() => {
      if (place.clientWidth > 0) this.#plot.setSize({ width: place.clientWidth, height: HEIGHT })
    }).observe(place)
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#plot.redraw())
  }

  show({ x, y }: Points): void {
    this.#place.classList.toggle('empty', x.length === 0)
    this.#plot.setData([[...x], [...y]])
  }
}
