// Numbers out of Prometheus text.
import { expect, test } from 'vitest'
import { metricOf } from '../../../bench/server/metrics-text.js'

const TEXT = `# HELP gorgon_requests_total Requests.
# TYPE gorgon_requests_total counter
gorgon_requests_total{endpoint="chat",finish="stop"} 3
gorgon_requests_total{endpoint="stream",finish="stop"} 4
gorgon_requests_total{endpoint="stream",finish="aborted"} 1.5e2
gorgon_requests_totally_else 1000
gorgon_ready 1
`

test('is the sum of a metric’s series', () => {
  expect(metricOf(TEXT, 'gorgon_requests_total')).toBe(157)
  expect(metricOf(TEXT, 'gorgon_ready')).toBe(1)
})

test('is the sum of those with the labels given', () => {
  expect(metricOf(TEXT, 'gorgon_requests_total', { endpoint: 'stream' })).toBe(154)
  expect(metricOf(TEXT, 'gorgon_requests_total', { endpoint: 'stream', finish: 'stop' })).toBe(4)
})

test('is 0 where there is none, as before anything was counted', () => {
  expect(metricOf(TEXT, 'gorgon_requests')).toBe(0)
})
