// What a training run tells in the end.
import { describe, expect, test } from 'vitest'
import { accuracyOf, headsTable, type StepPoint, trainingCurves } from '../../../heads/train/report.js'

describe('accuracy.json', () => {
  test('has the shares of each head, of its own positions, and how many those were', () => {
    const heads = [
      { positions: 8, hits: [4, 2, 0] },
      { positions: 4, hits: [1, 0, 1] },
    ]
    expect(accuracyOf(heads)).toEqual({
      rank_accuracy: [
        [0.5, 0.25, 0],
        [0.25, 0, 0.25],
      ],
      counts: [8, 4],
    })
  })

  test('is none where a head was asked nothing', () => {
    expect(accuracyOf([])).toBeNull()
    expect(
      accuracyOf([
        { positions: 5, hits: [5] },
        { positions: 0, hits: [0] },
      ]),
    ).toBeNull()
  })
})

test('the table has a row per head; what was not measured is a dash', () => {
  expect(
    headsTable([
      { positions: 200, loss: 1.23456, top1: 0.5, top5: 0.75, top10: 0.8 },
      { positions: 0, loss: null, top1: 0, top5: 0, top10: 0 },
    ]),
  ).toEqual([
    ['head', 'positions', 'loss', 'top-1', 'top-5', 'top-10'],
    ['1', '200', '1.235', '50%', '75%', '80%'],
    ['2', '0', '–', '–', '–', '–'],
  ])
})

describe('curves', () => {
  const steps = Array.from(
    { length: 480 },
    (_, i): StepPoint => ({
      step: i + 1,
      tokens: 1000,
      // Means of ten in a row are whole.
      loss: Math.floor(i / 10) + (i % 2 === 0 ? 0.5 : -0.5),
      heads: [{ top1: i / 480 }, { top1: i / 960 }],
    }),
  )
  const heldOut = [0, 240, 480].map((step) => ({ step, loss: 3, heads: [{ top1: 0.5 }, { top1: 0.25 }] }))
  /** Lines of the document, each as its points. */
  const linesOf = (svg: string): [number, number][][] =>
    [...svg.matchAll(/<polyline class="line" points="([^"]*)"/g)].map(([, points]) =>
      points!
        .split(' ')
        .filter(Boolean)
        .map((point) => point.split(',').map(Number) as [number, number]),
    )

  test('show means of neighbouring steps, and held-out texts where they were looked at', () => {
    const [training, held, ...heads] = linesOf(trainingCurves({ title: 'demo', steps, heldOut }))
    expect(training!.length).toBe(48)
    // Rising evenly, as the means do and the steps do not.
    const rises = training!.slice(1).map(([, y], i) => Math.round(10 * (training![i]![1] - y)) / 10)
    expect(Math.max(...rises) - Math.min(...rises)).toBeLessThan(0.3)
    expect(held!.length).toBe(3)
    expect(held![2]![0]).toBe(training!.at(-1)![0])
    expect(heads.map((line) => line.length)).toEqual([3, 3])
  })

  test('show what was learnt where nothing was held out, and nothing of what is no number', () => {
    const broken = steps.map((step, i) => (i < 470 ? step : { ...step, loss: Number.NaN }))
    const svg = trainingCurves({ title: 'demo', steps: broken, heldOut: [] })
    expect(svg).toContain('in training')
    expect(linesOf(svg).map((line) => line.length)).toEqual([47, 48, 48])
    expect(svg).not.toContain('NaN')
  })

  test('are a document even before the first step', () => {
    expect(trainingCurves({ title: 'demo', steps: [], heldOut: [] })).toMatch(/^<svg [\s\S]*<\/svg>\n$/)
  })
})
