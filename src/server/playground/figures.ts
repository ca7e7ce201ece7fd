// The numbers, charts and bars beside the output: of a response that runs, or of a run that is over.
import { AcceptanceBars } from './acceptance.js'
import type { Points } from './buckets.js'
import { CacheBar } from './cache-bar.js'
import { Chart } from './chart.js'
import { element } from './dom.js'
import { showCount, showMs, showNumber } from './format.js'
import type { Progress } from './progress.js'
import type { Run } from './run.js'

/** Charts are drawn no more often than this, in milliseconds; numbers as often as the screen. */
const CHART_MS = 100

const figure = (name: string) => element(`figure-${name}`, HTMLElement)

const describe = ({ y }: Points, unit: string): string =>
  y.length === 0 ? `no ${unit} yet` : `from ${showNumber(Math.min(...y))} to ${showNumber(Math.max(...y))} ${unit}`

export class Figures {
  readonly #rate = figure('rate')
  readonly #perStep = figure('per-step')
  readonly #ttft = figure('ttft')
  readonly #tokens = figure('tokens')
  readonly #steps = figure('steps')
  readonly #total = figure('total')
  readonly #rateChart = new Chart(element('rate-chart', HTMLElement), (seconds) => `${seconds} s`)
  readonly #stepChart = new Chart(element('step-chart', HTMLElement), (step) => String(step))
  readonly #rateText = element('rate-text', HTMLElement)
  readonly #stepText = element('step-text', HTMLElement)
  readonly #acceptance = new AcceptanceBars(element('acceptance', HTMLElement), element('acceptance-note', HTMLElement))
  readonly #cache = new CacheBar(element('cache', HTMLElement))
  #chartsAt = 0
  #frame = 0

  /** A new response begins. */
  clear(progress: Progress): void {
    this.#cache.clear()
    this.#chartsAt = 0
    this.#total.textContent = showNumber(null)
    this.#draw(progress)
  }

  /** Shows how far a response is, when the screen is next drawn. */
  update(progress: Progress): void {
    this.#frame ||= requestAnimationFrame(() => this.#draw(progress))
  }

  /** The last word: what the server measured. */
  show({ summary, rate, perStep }: Run): void {
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
    const { timing, speculation, usage, kv } = summary
    this.#rate.textContent = showNumber(timing.tokensPerSecond)
    this.#perStep.textContent = showNumber(speculation.tokensPerStep)
    this.#ttft.textContent = showMs(timing.ttftMs)
    this.#tokens.textContent = showCount(usage.completion)
    this.#steps.textContent = showCount(speculation.steps)
    this.#total.textContent = showMs(timing.e2eMs)
    this.#acceptance.show(speculation.byDepth, '')
    this.#cache.show(kv)
    this.#drawCharts(rate, perStep)
    this.#rateText.textContent = describe(rate, 'tokens per second')
    this.#stepText.textContent = describe(perStep, 'tokens per step')
  }

  #draw(progress: Progress): void {
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
    this.#rate.textContent = showNumber(progress.tokensPerSecond)
    this.#perStep.textContent = showNumber(progress.tokensPerStep)
    this.#ttft.textContent = showMs(progress.ttftMs)
    this.#tokens.textContent = showCount(progress.tokens)
    this.#steps.textContent = showCount(progress.steps)
    const now = performance.now()
    if (now - this.#chartsAt < CHART_MS) return
    this.#chartsAt = now
    this.#acceptance.show(progress.acceptance, progress.steps > 0 ? '(so far)' : '')
    this.#drawCharts(progress.rate, progress.perStep)
  }

  #drawCharts(rate: Points, perStep: Points): void {
    this.#rateChart.show(rate)
    this.#stepChart.show(perStep)
  }
}
