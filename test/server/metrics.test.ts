// What is counted, that it moves with what happens, and that the document says what there is.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { connect } from '../../src/client/node.js'
import type { Chunk, EngineStats, Result } from '../../src/index.js'
import { Metrics } from '../../src/server/metrics.js'
import { openaiOf } from '../support/openai.js'
import { runningServers } from '../support/server.js'

const startServer = runningServers({ speculation: { mode: 'medusa' } })

const TOTALS = { finished: 0, failed: 0, promptTokens: 0, completionTokens: 0, steps: 0, drafted: 0, accepted: 0 }
const STATS: EngineStats = {
  running: 3,
  prefilling: 1,
  decoding: 2,
  queued: 5,
  sessions: 2,
  memory: { weights: 1000, kv: 100, device: { used: 4000, peak: 5000 } },
  totals: TOTALS,
}

const ENGINE = {
  info: { backend: 'cpu', isa: 'portable', dtype: 'bf16', weights: 'full', context: 16384 } as const,
  stats: () => STATS,
}

const RESULT: Result = {
  text: 'ab',
  tokens: Int32Array.of(1, 2, 3, 4, 5),
  finish: 'stop',
  seed: null,
  usage: { prompt: 100, cached: 40, completion: 5 },
  timing: {
    queueMs: 10,
    prefillMs: 30,
    ttftMs: 45,
    decodeMs: 20,
    tpotMs: 4,
    e2eMs: 60,
    tokensPerSecond: 200,
    gapMs: { p50: 5, p90: 5, p99: 5, max: 5 },
  },
  speculation: {
    used: true,
    tree: 'auto',
    nodes: 8,
    sizes: [{ nodes: 8, steps: 2 }],
    steps: 2,
    drafted: 14,
    accepted: 3,
    tokensPerStep: 2.5,
    byDepth: [
      { offered: 2, accepted: 2 },
      { offered: 2, accepted: 1 },
    ],
    lengths: [0, 1, 1],
    accept: 'exact',
    gate: { decision: 'speculated', reason: '', expectedSpeedup: 2, plainSteps: 0, probes: 0 },
  },
  kv: { policy: 'snapkv', promptTokens: 140, keptTokens: 64, bytes: 640, fullBytes: 1400 },
}

function chunk(tokens: number, atMs: number): Chunk {
  return {
    index: 0,
    step: 0,
    atMs,
    text: '',
    pieces: new Array<string>(tokens).fill(''),
    tokens: new Int32Array(tokens),
    drafted: 0,
  }
}

/** Series by their text, such as `gorgon_running{model="demo"}`. */
async function scrape(metrics: Metrics): Promise<Map<string, number>> {
  return seriesOf((await metrics.text()).text)
}

function seriesOf(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]))
}

function create(): Metrics {
  const metrics = new Metrics({ version: '1.2.3' })
  metrics.read({ engines: () => [['demo', ENGINE]] })
  return metrics
}

describe('a request that gave a result', () => {
  test('is counted with its tokens, times, drafts and cache', async () => {
    const metrics = create()
    const work = metrics.work({ endpoint: 'chat', model: 'demo' })
    work.chunk(chunk(3, 45))
    work.chunk(chunk(2, 50))
    work.finished(RESULT)
    const series = await scrape(metrics)
    expect(Object.fromEntries([...series].filter(([name]) => /^gorgon_\w+_total/.test(name)))).toEqual({
      'gorgon_requests_total{endpoint="chat",model="demo",finish="stop"}': 1,
      'gorgon_prompt_tokens_total{model="demo"}': 100,
      'gorgon_cached_tokens_total{model="demo"}': 40,
      'gorgon_completion_tokens_total{model="demo"}': 5,
      'gorgon_steps_total{model="demo"}': 2,
      'gorgon_drafted_tokens_total{model="demo"}': 14,
      'gorgon_accepted_tokens_total{model="demo"}': 3,
      'gorgon_depth_offered_total{model="demo",depth="1"}': 2,
      'gorgon_depth_offered_total{model="demo",depth="2"}': 2,
      'gorgon_depth_accepted_total{model="demo",depth="1"}': 2,
      'gorgon_depth_accepted_total{model="demo",depth="2"}': 1,
      'gorgon_gate_decisions_total{model="demo",decision="speculated"}': 1,
      'gorgon_evicted_tokens_total{model="demo"}': 76,
      'gorgon_kv_saved_bytes_total{model="demo"}': 760,
      gorgon_socket_coalesced_frames_total: 0,
      gorgon_socket_parked_responses_total: 0,
      gorgon_socket_slow_closes_total: 0,
    })
    const sums = Object.fromEntries([...series].filter(([name]) => /^gorgon_\w+_sum/.test(name)))
    expect(sums).toEqual({
      'gorgon_queue_seconds_sum{model="demo"}': 0.01,
      'gorgon_prefill_seconds_sum{model="demo"}': 0.03,
      'gorgon_time_to_first_token_seconds_sum{model="demo"}': 0.045,
      'gorgon_time_per_output_token_seconds_sum{model="demo"}': 0.004,
      'gorgon_chunk_gap_seconds_sum{model="demo"}': 0.005,
      'gorgon_request_duration_seconds_sum{endpoint="chat",model="demo"}': 0.06,
      'gorgon_tokens_per_step_sum{model="demo"}': 2.5,
    })
  })

  test('without text, and without steps, leaves out the times it has not', async () => {
    const metrics = create()
    const { timing, speculation } = RESULT
    metrics.work({ endpoint: 'stream', model: 'demo' }).finished({
      ...RESULT,
      finish: 'aborted',
      timing: { ...timing, ttftMs: null, tpotMs: null },
      speculation: { ...speculation, steps: 0, tokensPerStep: 0 },
    })
    const series = await scrape(metrics)
    expect(series.get('gorgon_requests_total{endpoint="stream",model="demo",finish="aborted"}')).toBe(1)
    expect(series.has('gorgon_time_to_first_token_seconds_count{model="demo"}')).toBe(false)
    expect(series.has('gorgon_time_per_output_token_seconds_count{model="demo"}')).toBe(false)
    expect(series.has('gorgon_tokens_per_step_count{model="demo"}')).toBe(false)
  })
})

test('failures have their code, and no model where none was found', async () => {
  const metrics = create()
  metrics.refused('completions', 'ERR_OPTION')
  metrics.work({ endpoint: 'completions', model: 'demo' }).failed('ERR_QUEUE_FULL')
  const series = await scrape(metrics)
  expect(series.get('gorgon_request_failures_total{endpoint="completions",model="",code="ERR_OPTION"}')).toBe(1)
  expect(series.get('gorgon_request_failures_total{endpoint="completions",model="demo",code="ERR_QUEUE_FULL"}')).toBe(1)
})

test("what sockets report is counted, and each status of HTTP's", async () => {
  const metrics = create()
  metrics.coalesced(3)
  metrics.parked()
  metrics.slowClosed()
  metrics.responded(200)
  metrics.responded(429)
  metrics.httpFailed('ERR_RATE_LIMIT')
  const series = await scrape(metrics)
  expect(series.get('gorgon_socket_coalesced_frames_total')).toBe(3)
  expect(series.get('gorgon_socket_parked_responses_total')).toBe(1)
  expect(series.get('gorgon_socket_slow_closes_total')).toBe(1)
  expect(series.get('gorgon_http_responses_total{status="200"}')).toBe(1)
  expect(series.get('gorgon_http_responses_total{status="429"}')).toBe(1)
  expect(series.get('gorgon_http_errors_total{code="ERR_RATE_LIMIT"}')).toBe(1)
})

test('gauges are read when somebody looks, and what is gone is gone', async () => {
  const metrics = create()
  let engines: [string, typeof ENGINE][] = [['demo', ENGINE]]
  metrics.read({ engines: () => engines, isReady: () => true, httpInFlight: () => 7, bufferedBytes: () => 99 })
  metrics.read({ sockets: () => ({ stream: 4, responses: 1 }), detached: () => ({ responses: 2, sessions: 3 }) })
  const series = await scrape(metrics)
  expect(Object.fromEntries([...series].filter(([name]) => /^gorgon_[a-z_]+(?<!_total)({|$)/.test(name)))).toEqual({
    [`gorgon_build_info{version="1.2.3",node="${process.versions.node}"}`]: 1,
    gorgon_ready: 1,
    'gorgon_queue_depth{model="demo"}': 5,
    'gorgon_running{model="demo"}': 3,
    'gorgon_prefilling{model="demo"}': 1,
    'gorgon_decoding{model="demo"}': 2,
    'gorgon_sessions{model="demo"}': 2,
    'gorgon_kv_bytes{model="demo"}': 100,
    'gorgon_weight_bytes{model="demo"}': 1000,
    'gorgon_device_memory_bytes{model="demo"}': 4000,
    'gorgon_model_info{model="demo",backend="cpu",isa="portable",dtype="bf16",weights="full",context="16384"}': 1,
    gorgon_http_requests_in_flight: 7,
    'gorgon_sockets{protocol="stream"}': 4,
    'gorgon_sockets{protocol="responses"}': 1,
    gorgon_socket_buffered_bytes: 99,
    'gorgon_detached{kind="response"}': 2,
    'gorgon_detached{kind="session"}': 3,
  })
  engines = []
  expect((await scrape(metrics)).has('gorgon_running{model="demo"}')).toBe(false)
})

describe('the text', () => {
  test('is Prometheus text with the process beside the server', async () => {
    const { type, text } = await create().text()
    expect(type).toBe('text/plain; version=0.0.4; charset=utf-8')
    expect(text).toContain('\nprocess_resident_memory_bytes ')
    expect(text).toContain('# TYPE gorgon_requests_total counter\n')
  })

  test('is OpenMetrics for those who ask, and stays what it was for the others', async () => {
    const metrics = create()
    metrics.work({ endpoint: 'chat', model: 'demo' }).finished(RESULT)
    const before = await metrics.text()
    const { type, text } = await metrics.text(
      'application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3',
    )
    expect(type).toBe('application/openmetrics-text; version=1.0.0; charset=utf-8')
    expect(text).toContain('# TYPE gorgon_requests counter\ngorgon_requests_total{')
    // A gauge by such a name is no counter.
    expect(text).toContain('# TYPE nodejs_active_handles_total gauge\n')
    expect(text).not.toContain('\n\n')
    expect(text.endsWith('\n# EOF\n')).toBe(true)
    const namesOf = (one: string) => [...one.matchAll(/^# TYPE (.*)$/gm)].map((match) => match[1])
    expect(namesOf((await metrics.text()).text)).toEqual(namesOf(before.text))
  })

  test('of two servers in one process keeps them apart', async () => {
    const [one, other] = [create(), create()]
    one.refused('chat', 'ERR_BODY')
    expect((await other.text()).text).not.toContain('ERR_BODY')
  })
})

test('a scrape of a running server shows what it did', async () => {
  const { server, url } = await startServer()
  const principal = { id: 'test', maxPriority: 0 }
  const options = { maxTokens: 12, ignoreEos: true }
  const work = server.intake.start({ principal, endpoint: 'stream', input: 'const x = ', options })
  // Nobody reads the chunks: the tokens count all the same.
  const { usage, speculation } = await work.result
  const refused = { principal, endpoint: 'chat', model: 'none', input: '', options } as const
  expect(() => server.intake.start(refused)).toThrow('There is no model')

  const response = await fetch(`${url}/metrics`)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const series = seriesOf(await response.text())
  expect(series.get('gorgon_ready')).toBe(1)
  expect(series.get('gorgon_running{model="demo"}')).toBe(0)
  expect(series.get('gorgon_kv_bytes{model="demo"}')).toBe(0)
  expect(series.get('gorgon_weight_bytes{model="demo"}')).toBeGreaterThan(10_000_000)
  expect(series.has('gorgon_device_memory_bytes{model="demo"}')).toBe(false)
  expect(series.get('gorgon_http_requests_in_flight')).toBe(1)
  expect(series.get('gorgon_prompt_tokens_total{model="demo"}')).toBe(usage.prompt)
  expect(series.get('gorgon_completion_tokens_total{model="demo"}')).toBe(usage.completion)
  expect(series.get('gorgon_steps_total{model="demo"}')).toBe(speculation.steps)
  expect(series.get('gorgon_requests_total{endpoint="stream",model="demo",finish="length"}')).toBe(1)
  expect(series.get('gorgon_request_failures_total{endpoint="chat",model="",code="ERR_MODEL_UNKNOWN"}')).toBe(1)
})

test('a server with keys shows its metrics to those who have one', async () => {
  const key = 'a-key-of-the-server'
  const { url } = await startServer({ keys: [key] })
  expect((await fetch(`${url}/metrics`)).status).toBe(401)
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${key}` } })
  expect(response.status).toBe(200)
  expect(await response.text()).toContain('gorgon_http_responses_total{status="401"} 1\n')
})

test('everything that the document lists moves with what a server does', async () => {
  const { url } = await startServer()
  const scrapeNow = async () => seriesOf(await (await fetch(`${url}/metrics`)).text())
  const before = await scrapeNow()

  const openai = openaiOf({ url })
  const messages = [{ role: 'user' as const, content: 'export function add(' }]
  await openai.chat.completions.create({ model: 'demo', messages, max_tokens: 40 })
  await expect(openai.completions.create({ model: 'none', prompt: 'x' })).rejects.toThrow()
  await using client = connect(url)
  await expect(client.generate('x', { model: 'none' }).result()).rejects.toThrow()
  const kv = { budget: 64, window: 16 }
  const session = client.session({ kv })
  const prompt = 'const numbers = [1, 2, 3, 4, 5, 6, 7, 8]\n'.repeat(20)
  await session.send(prompt, { maxTokens: 30 })
  await session.send(';\nconst x = ', { maxTokens: 30, ignoreEos: true })
  // Some gauges are above zero only while something runs.
  const running = client.generate(prompt, { maxTokens: 10_000, ignoreEos: true, kv })
  const chunks = running[Symbol.asyncIterator]()
  await chunks.next()
  const during = await scrapeNow()
  await chunks.return?.()

  const nameOf = (series: string): string => series.split('{')[0]!.replace(/_(bucket|sum|count)$/, '')
  const moved = new Set(
    [...during].filter(([series, value]) => before.get(series) !== value).map(([series]) => nameOf(series)),
  )
  const still = documented()
    .map(([name]) => name)
    .filter((name) => !moved.has(name))
  expect(still).toEqual([
    // These need more than this test does: a full engine, another model, a device, long prompts, clients that do not
    // read or that vanish.
    'gorgon_queue_depth',
    'gorgon_prefilling',
    'gorgon_weight_bytes',
    'gorgon_device_memory_bytes',
    'gorgon_http_requests_in_flight',
    'gorgon_socket_buffered_bytes',
    'gorgon_socket_coalesced_frames_total',
    'gorgon_socket_parked_responses_total',
    'gorgon_socket_slow_closes_total',
    'gorgon_detached',
    // And these say what is so from the beginning.
    'gorgon_ready',
    'gorgon_model_info',
    'gorgon_build_info',
  ])
  for (const name of still.filter((one) => one !== 'gorgon_device_memory_bytes')) {
    expect([...during.keys()].map(nameOf)).toContain(name)
  }
})

/** The rows of docs/metrics.md. */
function documented(): (readonly [name: string, type: string, labels: string, help: string])[] {
  const rows = readFileSync('docs/metrics.md', 'utf8').matchAll(/^\| `(gorgon_\w+)` \| (\w+) \| (.*?)\| (.*) \|$/gm)
  return Array.from(rows, ([, name, type, labels, help]) => [name!, type!, labels!.trim(), help!] as const)
}

test('docs/metrics.md lists each metric with its type, labels and meaning', async () => {
  const metrics = create()
  const { text } = await metrics.text()
  const helps = new Map(Array.from(text.matchAll(/^# HELP (gorgon_\S+) (.*)$/gm), ([, name, help]) => [name, help]))
  const types = [...text.matchAll(/^# TYPE (gorgon_\S+) (\S+)$/gm)].map(([, name, type]) => [
    name,
    type,
    helps.get(name),
  ])
  const rows = documented()
  expect(rows.map(([name, type, , help]) => [name, type, help]).sort()).toEqual(types.sort())

  // Labels show in series, so every metric needs one.
  const work = metrics.work({ endpoint: 'chat', model: 'demo' })
  work.chunk(chunk(1, 1))
  work.chunk(chunk(1, 2))
  work.finished(RESULT)
  metrics.refused('chat', 'ERR_BODY')
  metrics.responded(200)
  metrics.httpFailed('ERR_BODY')
  metrics.read({ sockets: () => ({ stream: 1, responses: 0 }) })
  const series = [...(await scrape(metrics)).keys()].filter((name) => name.startsWith('gorgon_'))
  for (const [name, , labels] of rows) {
    const one = series.find((text) => text.split('{')[0]!.replace(/_bucket$/, '') === name)
    expect(one, name).toBeDefined()
    const shown = [...one!.matchAll(/[{,](\w+)=/g)].map((match) => match[1]!).filter((label) => label !== 'le')
    expect(shown.join(', '), name).toBe(labels)
  }
})
