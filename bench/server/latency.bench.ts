// Question: how much longer does a client of the server wait, for the first byte, for each step and in all, than a caller of the library?
//
// Expected from arithmetic: a frame costs 8 to 10 us to send on a socket without compression, and about as much again to be made and read as
// JSON. All of it is the engine process's one JavaScript thread, and a step of 16 streams sends 16 frames: 16 x 20 us = 0.3 ms for each step,
// where the last reader waits for all and the middle one for half. The engine computes on other threads meanwhile, but its next step is asked
// for by the same JavaScript thread: at worst all 0.3 ms come on top of a step, and at most 1 ms is asked of it. At 64 streams four times as much. The
// first byte is one round trip of loopback, parsing and the engine's queue: below 1 ms where the engine is idle, at most a step more where it is not.
//
//   npm run bench -- server/latency [options]
//
// The engine and its server are one process, the load generator is another, and the library is called in the first, by the same code. Where the
// machine has two cores, the engine computes on one, and both JavaScript threads share the other. Every answer is compared with the
// library's before anything is reported.

import { table } from '../../src/cli/format.js'
import {
  benchCommand,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wrongResult,
} from '../support/command.js'
import { interleave } from '../support/interleave.js'
import { machineRecord } from '../support/machine.js'
import { medianOf } from '../support/statistics.js'
import {
  type Asker,
  promptOf,
  type Request,
  sseAsker,
  TRANSPORT_NAMES,
  TRANSPORTS,
  type Transport,
  websocketAsker,
} from './askers.js'
import { HostProcess } from './host-process.js'
import {
  type HostSide,
  type LatencyMeasurement,
  type LatencyOptions,
  LEGEND,
  latencyTable,
  measurementOf,
  summariseLatency,
} from './latency.report.js'
import { type Answer, type LoadPlan, type LoadRun, runLoad } from './load.js'
import { lagsOf } from './watched-engine.js'

const BENCH = 'server/latency'

interface Given {
  readonly model: string
  readonly heads?: string
  readonly speculation: 'off' | 'auto'
  readonly clients: readonly number[]
  readonly requests: number
  readonly loads: readonly number[]
  readonly openRequests: number
  readonly promptLengths: readonly number[]
  readonly tokens: number
  readonly rounds: number
  readonly goodTtft: number
  readonly goodTpot: number
  readonly threads: number
  readonly quick?: boolean
  readonly out: string
}

async function main(given: Given): Promise<void> {
  const settings = given.quick
    ? { ...given, clients: [1, 4], requests: 1, openRequests: 8, tokens: 16, rounds: 1 }
    : given
  const { clients, tokens, rounds, speculation, promptLengths } = settings
  const most = Math.max(...clients)
  await using host = await HostProcess.start({
    model: given.model,
    threads: given.threads,
    limits: { maxSequences: most },
    ...(given.heads !== undefined && { heads: given.heads }),
  })
  // What is measured is the server, not what it refuses.
  const url = await host.ask('serve', { connectionsPerAddress: 1024, perKey: { concurrent: 1024 } })
  const prompts = await host.ask('prompts', { count: most, lengths: promptLengths })
  const request: Request = { prompts, tokens, speculation, temperature: 0 }
  const askers = { websocket: websocketAsker(url, request), sse: sseAsker(url, request) }

  /** Puts the load on one of the three, and says what it meant for the host. */
  const run = async (transport: Transport, plan: LoadPlan): Promise<LoadRun & HostSide> => {
    const before = await host.ask('marks', { afterGc: true })
    await host.ask('watch')
    const done = await loaded(host, transport, plan, request, askers)
    const made = await host.ask('made')
    const after = await host.ask('marks', { afterGc: false })
    return { ...done, busyMs: after.busyMs - before.busyMs, lagsMs: lagsOf(textArrivals(done, request), made) }
  }

  showProgress('one by one, to know the answers')
  const alone = await host.ask('library', { plan: { loop: 'closed', clients: 1, requestsEach: most }, request })
  const expected = alone.answers.toSorted((a, b) => a.question - b.question)
  const check = (what: string, { answers }: LoadRun): void => {
    for (const answer of answers) {
      if (!isSame(answer, expected[answer.question % most]!))
        throw wrongResult(`${what}: request ${answer.question} got another answer than alone`)
    }
  }

  const limits = { ttftMs: given.goodTtft, tpotMs: given.goodTpot }
  const measurements: LatencyMeasurement[] = []
  const measure = async (
    transport: Transport,
    load: LatencyMeasurement['load'],
    plan: LoadPlan,
    round: number,
  ): Promise<void> => {
    const done = await run(transport, plan)
    check(`${TRANSPORTS[transport]}, ${JSON.stringify(load)}`, done)
    if (round >= 0) measurements.push(measurementOf(done, { transport, load, round, limits }))
  }

  const closedArms = clients.flatMap((count) =>
    TRANSPORT_NAMES.map(
      (transport) =>
        [
          `${TRANSPORTS[transport]}, ${count} clients`,
          (round: number) =>
            measure(
              transport,
              { loop: 'closed', clients: count },
              { loop: 'closed', clients: count, requestsEach: settings.requests },
              round,
            ),
        ] as const,
    ),
  )
  await turns(closedArms, rounds)

  // What arrives is a share of what the library can do, the same for all three.
  const capacity = medianOf(
    measurements
      .filter(({ transport, load }) => transport === 'library' && load.loop === 'closed' && load.clients === most)
      .map(({ requests, wallMs }) => (1000 * requests) / wallMs),
  )
  const openArms = settings.loads.flatMap((percent) =>
    TRANSPORT_NAMES.map(
      (transport) =>
        [
          `${TRANSPORTS[transport]}, ${percent}% of capacity`,
          (round: number) => {
            const share = percent / 100
            const perSecond = share * capacity
            const plan = { loop: 'open', perSecond, requests: settings.openRequests } as const
            return measure(transport, { loop: 'open', share, perSecond }, plan, round)
          },
        ] as const,
    ),
  )
  await turns(openArms, rounds)
  showProgress()
  for (const asker of Object.values(askers)) asker.close()

  const options: LatencyOptions = {
    model: given.model,
    speculation,
    promptLengths,
    tokens,
    clients,
    requestsEach: settings.requests,
    loads: settings.loads,
    openRequests: settings.openRequests,
    rounds,
    limits,
    quick: given.quick === true,
  }
  const machine = machineRecord(await host.ask('info'))
  await publishResult(
    { bench: BENCH, machine, options, measurements },
    given.out,
    () => `${table(latencyTable(summariseLatency(measurements)))}\n${LEGEND}\n`,
  )
}

function loaded(
  host: HostProcess,
  transport: Transport,
  plan: LoadPlan,
  request: Request,
  askers: Readonly<Record<Exclude<Transport, 'library'>, Asker>>,
): Promise<LoadRun> {
  return transport === 'library' ? host.ask('library', { plan, request }) : runLoad(plan, askers[transport].ask)
}

/** When each chunk with text came, in the order of the requests. */
function textArrivals({ answers }: LoadRun, request: Request) {
  return answers
    .toSorted((a, b) => a.dueMs - b.dueMs)
    .map(({ question, arrivals }) => ({
      prompt: promptOf(request, question),
      arrivedMs: arrivals.filter(({ hasText }) => hasText).map(({ atMs }) => atMs),
    }))
}

/** Streams without ids are compared by their text. */
const isSame = (answer: Answer, expected: Answer): boolean =>
  answer.tokens === expected.tokens &&
  answer.text === expected.text &&
  (answer.ids === null || answer.ids.join() === expected.ids!.join())

async function turns(
  arms: readonly (readonly [string, (round: number) => Promise<void>])[],
  rounds: number,
): Promise<void> {
  await interleave(Object.fromEntries(arms) as Record<string, (round: number) => Promise<void>>, {
    rounds,
    warmup: 1,
    onSample: (arm, _, round) => showProgress(`round ${round + 1} of ${rounds}: ${arm}`),
  })
}

await runBench(
  benchCommand(BENCH, 'What a client of the server waits for, beside a caller of the library.')
    .option('--model <dir>', 'model folder', 'demo')
    .option('--heads <dir>', 'heads folder')
    .option('--speculation <mode>', 'off: a token in each chunk, so the most chunks; or auto', 'off')
    .option('--clients <n,n…>', 'clients at once, each of which waits for its answer', numberList(), [1, 4, 16, 64])
    .option('--requests <n>', 'requests of each client', wholeNumber(), 3)
    .option('--loads <n,n…>', 'rates of arrival, in percent of what the library can do', numberList(), [50, 80])
    .option('--open-requests <n>', 'requests at each rate', wholeNumber(), 192)
    .option('--prompt-lengths <n,n…>', 'tokens of the prompts, in turn', numberList(), [32, 64, 128])
    .option('--tokens <n>', 'tokens to generate', wholeNumber(2), 128)
    .option('--rounds <n>', 'runs of each', wholeNumber(), 3)
    .option('--good-ttft <ms>', 'first text within this is good', Number, 1000)
    .option('--good-tpot <ms>', 'at most this per token is good', Number, 50)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 1)
    .option('--quick', 'only show that it runs')
    .addHelpText('after', '\nWith default options and the demo model: a few minutes.')
    .action(main),
)
