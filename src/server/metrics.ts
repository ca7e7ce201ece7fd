// The server's metrics: what is counted as it happens, what is read when somebody looks, and both as Prometheus text.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Chunk, EngineInfo, EngineStats, Result } from '../index.js'
import type { Route } from './http.js'
import type { Endpoint, Observer, WorkLabels, WorkObserver } from './observer.js'

/** Which protocol a WebSocket speaks. */
export type SocketProtocol = 'stream' | 'responses'

/** What of an engine is shown. */
export interface MeasuredEngine {
  readonly info: Pick<EngineInfo, 'backend' | 'isa' | 'dtype' | 'weights' | 'context'>
  stats(): EngineStats
}

/** What is asked for at the moment somebody looks. Each part of the server hands in its own. */
export interface Readings {
  /** Loaded engines by the names of their models. */
  engines(): Iterable<readonly [model: string, engine: MeasuredEngine]>
  isReady(): boolean
  httpInFlight(): number
  sockets(): Readonly<Record<SocketProtocol, number>>
  /** Given to WebSockets and not yet taken by the network. */
  bufferedBytes(): number
  /** Responses and sessions whose connection broke, and which wait to be resumed. */
  detached(): { readonly responses: number; readonly sessions: number }
}

/** Steps of a small model take less than a millisecond. Below these, each list is that of OpenTelemetry's `gen_ai.server` metrics. */
const FAST = [0.0005, 0.001, 0.0025, 0.005]
const TIME_TO_FIRST_TOKEN = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const TIME_PER_OUTPUT_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]
const DURATION = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
/** A step commits its root and at most as many drafts as there are heads. */
const TOKENS_PER_STEP = [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10]

const TEXT = 'text/plain; version=0.0.4; charset=utf-8'
const OPEN_METRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/**
 * Counts for one server. Label values come from short lists: endpoints, models that are served, codes of ERRORS.md; nothing a client
 * wrote becomes one.
 */
export class Metrics implements Observer {
  readonly #registry = new Registry()
  #readings: Partial<Readings> = {}

  readonly #requests = this.#counter('requests_total', 'Generations that gave a result', [
    'endpoint',
    'model',
    'finish',
  ])
  readonly #failures = this.#counter(
    'request_failures_total',
    'Generations that failed, or that the queue or a limit refused',
    ['endpoint', 'model', 'code'],
  )
  readonly #promptTokens = this.#counter('prompt_tokens_total', 'Prompt tokens worked through', ['model'])
  readonly #cachedTokens = this.#counter('cached_tokens_total', 'Rows that earlier turns of a session had left', [
    'model',
  ])
  readonly #completionTokens = this.#counter('completion_tokens_total', 'Tokens made', ['model'])
  readonly #steps = this.#counter('steps_total', 'Decode steps', ['model'])
  readonly #drafted = this.#counter('drafted_tokens_total', 'Tokens drafted', ['model'])
  readonly #accepted = this.#counter('accepted_tokens_total', 'Drafted tokens accepted', ['model'])
  readonly #offeredAt = this.#counter('depth_offered_total', 'Steps that offered a draft at this depth', [
    'model',
    'depth',
  ])
  readonly #acceptedAt = this.#counter('depth_accepted_total', 'Steps that accepted a draft at this depth', [
    'model',
    'depth',
  ])
  readonly #gate = this.#counter('gate_decisions_total', 'Requests by whether they speculated', ['model', 'decision'])
  readonly #evicted = this.#counter('evicted_tokens_total', 'Prompt tokens whose rows were dropped from the cache', [
    'model',
  ])
  readonly #saved = this.#counter('kv_saved_bytes_total', 'Bytes of cache that dropped rows would have taken', [
    'model',
  ])

  readonly #queueTime = this.#histogram('queue_seconds', 'From accepted to the start of prefill', ['model'], DURATION)
  readonly #prefill = this.#histogram('prefill_seconds', 'Prefill, compression included', ['model'], DURATION)
  readonly #firstToken = this.#histogram(
    'time_to_first_token_seconds',
    'From accepted to the first text',
    ['model'],
    TIME_TO_FIRST_TOKEN,
  )
  readonly #perToken = this.#histogram(
    'time_per_output_token_seconds',
    'Per token after the first, amortised over steps',
    ['model'],
    [...FAST, ...TIME_PER_OUTPUT_TOKEN],
  )
  readonly #gap = this.#histogram(
    'chunk_gap_seconds',
    'Between consecutive chunks of a response, whatever they carry',
    ['model'],
    [...FAST, ...TIME_PER_OUTPUT_TOKEN],
  )
  readonly #duration = this.#histogram(
    'request_duration_seconds',
    'From accepted to the end',
    ['endpoint', 'model'],
    DURATION,
  )
  readonly #perStep = this.#histogram(
    'tokens_per_step',
    'Of a request: tokens committed per decode step',
    ['model'],
    TOKENS_PER_STEP,
  )

  readonly #responses = this.#counter('http_responses_total', 'HTTP responses begun', ['status'])
  readonly #httpErrors = this.#counter('http_errors_total', 'HTTP requests answered with an error', ['code'])
  readonly #coalesced = this.#counter(
    'socket_coalesced_frames_total',
    'Frames put into another one because the client reads slowly',
  )
  readonly #parked = this.#counter(
    'socket_parked_responses_total',
    'Responses paused in the engine because the client reads slowly',
  )
  readonly #slowCloses = this.#counter(
    'socket_slow_closes_total',
    'WebSockets closed because the client did not read (4499)',
  )

  /** @param build what this server is, for `gorgon_build_info`. */
  constructor(build: { readonly version: string }) {
    const { node } = process.versions
    this.#gauge('build_info', 'What runs: always 1', ['version', 'node']).set({ version: build.version, node }, 1)
    this.#gauge('ready', '1 when new requests are taken, else 0', [], (gauge) =>
      gauge.set(this.#readings.isReady?.() ? 1 : 0),
    )
    this.#engineGauge('queue_depth', 'Requests waiting for a place', ({ queued }) => queued)
    this.#engineGauge('running', 'Requests with a place', ({ running }) => running)
    this.#engineGauge('prefilling', 'Of those, requests at their prompt', ({ prefilling }) => prefilling)
    this.#engineGauge('decoding', 'Of those, requests making tokens', ({ decoding }) => decoding)
    this.#engineGauge('sessions', 'Conversations open', ({ sessions }) => sessions)
    this.#engineGauge('kv_bytes', 'Cache of running requests and open conversations', ({ memory }) => memory.kv)
    this.#engineGauge('weight_bytes', 'Weights, Medusa heads included', ({ memory }) => memory.weights)
    this.#engineGauge('device_memory_bytes', "In use of a device's memory; none on the CPU", ({ memory }) =>
      memory.device ? memory.device.used : null,
    )
    this.#gauge(
      'model_info',
      'A loaded model: always 1',
      ['model', 'backend', 'isa', 'dtype', 'weights', 'context'],
      (gauge) => {
        for (const [model, { info }] of this.#engines()) {
          const { backend, isa, dtype, weights, context } = info
          gauge.set({ model, backend, isa, dtype, weights, context }, 1)
        }
      },
    )
    this.#gauge('http_requests_in_flight', 'HTTP requests not yet answered to the end', [], (gauge) =>
      gauge.set(this.#readings.httpInFlight?.() ?? 0),
    )
    this.#gauge('sockets', 'WebSockets open', ['protocol'], (gauge) => {
      for (const [protocol, count] of Object.entries(this.#readings.sockets?.() ?? {})) gauge.set({ protocol }, count)
    })
    this.#gauge('socket_buffered_bytes', 'Bytes that WebSockets hold for clients', [], (gauge) =>
      gauge.set(this.#readings.bufferedBytes?.() ?? 0),
    )
    this.#gauge('detached', 'What waits for a broken connection to come back', ['kind'], (gauge) => {
      const { responses, sessions } = this.#readings.detached?.() ?? { responses: 0, sessions: 0 }
      gauge.set({ kind: 'response' }, responses)
      gauge.set({ kind: 'session' }, sessions)
    })
  }

  /** From now on these are asked too. */
  read(readings: Partial<Readings>): void {
    this.#readings = { ...this.#readings, ...readings }
  }

  work(labels: WorkLabels): WorkObserver {
    const { model } = labels
    let lastAtMs: number | undefined
    let made = 0
    return {
      chunk: ({ atMs, tokens }: Chunk) => {
        made += tokens.length
        this.#completionTokens.inc({ model }, tokens.length)
        if (lastAtMs !== undefined) this.#gap.observe({ model }, (atMs - lastAtMs) / 1000)
        lastAtMs = atMs
      },
      finished: (result) => {
        // Of chunks that nobody read.
        this.#completionTokens.inc({ model }, result.usage.completion - made)
        this.#finished(labels, result)
      },
      failed: (code) => this.#failures.inc({ ...labels, code }),
    }
  }

  refused(endpoint: Endpoint, code: string): void {
    this.#failures.inc({ endpoint, model: '', code })
  }

  responded(status: number): void {
    this.#responses.inc({ status })
  }

  /** @param code of the problem that was the answer, or the end of one. */
  httpFailed(code: string): void {
    this.#httpErrors.inc({ code })
  }

  /** @param frames that were not sent on their own. */
  coalesced(frames: number): void {
    this.#coalesced.inc(frames)
  }

  parked(): void {
    this.#parked.inc()
  }

  slowClosed(): void {
    this.#slowCloses.inc()
  }

  /** Everything as text, of this server and of the process it runs in. @param accept the Accept header. */
  async text(accept = ''): Promise<{ readonly type: string; readonly text: string }> {
    const text = await Registry.merge([this.#registry, processRegistry()]).metrics()
    return accept.includes('application/openmetrics-text')
      ? { type: OPEN_METRICS, text: asOpenMetrics(text) }
      : { type: TEXT, text }
  }

  #finished({ endpoint, model }: WorkLabels, { finish, usage, timing, speculation, kv }: Result): void {
    this.#requests.inc({ endpoint, model, finish })
    this.#promptTokens.inc({ model }, usage.prompt)
    this.#cachedTokens.inc({ model }, usage.cached)
    this.#steps.inc({ model }, speculation.steps)
    this.#drafted.inc({ model }, speculation.drafted)
    this.#accepted.inc({ model }, speculation.accepted)
    speculation.byDepth.forEach(({ offered, accepted }, index) => {
      this.#offeredAt.inc({ model, depth: index + 1 }, offered)
      this.#acceptedAt.inc({ model, depth: index + 1 }, accepted)
    })
    this.#gate.inc({ model, decision: speculation.gate.decision })
    this.#evicted.inc({ model }, kv.promptTokens - kv.keptTokens)
    this.#saved.inc({ model }, kv.fullBytes - kv.bytes)
    this.#queueTime.observe({ model }, timing.queueMs / 1000)
    this.#prefill.observe({ model }, timing.prefillMs / 1000)
    this.#duration.observe({ endpoint, model }, timing.e2eMs / 1000)
    if (timing.ttftMs !== null) this.#firstToken.observe({ model }, timing.ttftMs / 1000)
    if (timing.tpotMs !== null) this.#perToken.observe({ model }, timing.tpotMs / 1000)
    if (speculation.steps > 0) this.#perStep.observe({ model }, speculation.tokensPerStep)
  }

  #engines(): Iterable<readonly [string, MeasuredEngine]> {
    return this.#readings.engines?.() ?? []
  }

  #counter<Label extends string = never>(name: string, help: string, labelNames: readonly Label[] = []) {
    return new Counter({ name: `gorgon_${name}`, help: `${help}.`, labelNames, registers: [this.#registry] })
  }

  #histogram<Label extends string>(name: string, help: string, labelNames: readonly Label[], buckets: number[]) {
    return new Histogram({
      name: `gorgon_${name}`,
      help: `${help}.`,
      labelNames,
      buckets,
      registers: [this.#registry],
    })
  }

  /** @param read sets every series there is at the moment; those of the last time are gone. */
  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    read?: (gauge: Gauge<Label>) => void,
  ) {
    return new Gauge<Label>({
      name: `gorgon_${name}`,
      help: `${help}.`,
      labelNames,
      registers: [this.#registry],
      ...(read && {
        collect() {
          this.reset()
          read(this)
        },
      }),
    })
  }

  /** @param read null where an engine has no such thing. */
  #engineGauge(name: string, help: string, read: (stats: EngineStats) => number | null): void {
    this.#gauge(name, help, ['model'], (gauge) => {
      for (const [model, engine] of this.#engines()) {
        const value = read(engine.stats())
        if (value !== null) gauge.set({ model }, value)
      }
    })
  }
}

/** Facts of the process, which all its servers share: to observe garbage collection costs, and cannot be ended. */
let ofProcess: Registry | undefined

function processRegistry(): Registry {
  if (!ofProcess) {
    ofProcess = new Registry()
    collectDefaultMetrics({ register: ofProcess })
  }
  return ofProcess
}

/** prom-client's own way of writing this renames its counters for good. */
function asOpenMetrics(text: string): string {
  const counters = new Set(Array.from(text.matchAll(/^# TYPE (\S+)_total counter$/gm), ([, name]) => name))
  const named = text.replace(/^# (HELP|TYPE) (\S+)_total /gm, (line, keyword, name) =>
    counters.has(name) ? `# ${keyword} ${name} ` : line,
  )
  return `${named.replace(/\n\n+/g, '\n')}# EOF\n`
}

export function metricsRoutes(metrics: Metrics): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/metrics',
      async handle({ request, response }) {
        const { type, text } = await metrics.text(request.headers.accept)
        response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store', vary: 'accept' }).end(text)
      },
    },
  ]
}
