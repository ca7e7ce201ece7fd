// Question: do 64 clients at once get what each gets alone, does the server's memory stay where it is over 10,000 requests, and does every
// request end exactly once, with everything released, whatever clients do?
//
// Expected from arithmetic: tokens do not depend on who else is served, by construction. Nothing is kept of a request that has ended, so the
// heap's slope is 0 within what a line through twenty samples can tell (some hundred bytes a request). 64 streams share a step; none waits for another's
// turn, so that the longest gap is a step with a few prompts in it, tens of milliseconds, and Jain's index of their speeds is above 0.9 on a machine that
// does nothing else.
//
//   npm run bench -- server/soak [options]
//
// Stops by itself, and speaks to this machine only. Anything that is not as it must be ends it with an error: there are no figures of a
// server that is wrong.

import { table } from '../../src/cli/format.js'
import { fairnessOf } from '../decode/together.js'
import {
  benchCommand,
  numberList,
  publishResult,
  runBench,
  showProgress,
  wholeNumber,
  wrongResult,
} from '../support/command.js'
import { machineRecord } from '../support/machine.js'
import { type Asker, type Request, sseAsker, websocketAsker } from './askers.js'
import { FAULTS, type FaultCase, IMPATIENT } from './fault-cases.js'
import { inflict } from './faults.js'
import { HostProcess } from './host-process.js'
import { type Answer, runLoad, type Timed } from './load.js'
import {
  type Crowd,
  crowdProblems,
  crowdTable,
  type Fault,
  faultTable,
  LEGEND,
  memoryTable,
  type SoakMeasurement,
  type SoakOptions,
} from './soak.report.js'
import { type Stopping, stopUnderLoad } from './stopping.js'
import { digestOf, gapsOf, tpotOf } from './times.js'

const BENCH = 'server/soak'

/** Requests from one look at the memory to the next, of each client. */
const ROUND = 8

interface Given {
  readonly model: string
  readonly clients: number
  readonly requests: number
  readonly tokens: number
  readonly promptLengths: readonly number[]
  readonly temperature: number
  readonly threads: number
  readonly quick?: boolean
  readonly out: string
}

async function main(given: Given): Promise<void> {
  const settings = given.quick ? { ...given, clients: 8, requests: 192 } : given
  await using host = await HostProcess.start({
    model: given.model,
    threads: given.threads,
    limits: { maxSequences: settings.clients, maxQueue: 256 },
  })
  const crowd = await crowded(host, settings)
  const faults: Fault[] = []
  for (const fault of FAULTS) faults.push(await suffered(host, fault, given.quick === true))
  faults.push(await stopped({ model: given.model, clients: settings.clients, drainSeconds: given.quick ? 1 : 5 }))
  showProgress()

  const { model, temperature } = given
  const { clients, requests, tokens } = settings
  const options: SoakOptions = { model, clients, requests, tokens, temperature, quick: given.quick === true }
  const measurements: SoakMeasurement[] = [crowd, ...faults]
  const machine = machineRecord(await host.ask('info'))
  await publishResult({ bench: BENCH, machine, options, measurements }, given.out, () =>
    [crowdTable([crowd]), memoryTable(crowd), faultTable(faults)].map(table).concat(LEGEND, '').join('\n'),
  )
}

/** Clients at once, each answer compared with the one its request gets alone. */
async function crowded(
  host: HostProcess,
  { clients, requests, tokens, promptLengths, temperature }: Given,
): Promise<Crowd> {
  const prompts = await host.ask('prompts', { count: clients, lengths: promptLengths })
  const request: Request = { prompts, tokens, speculation: 'auto', temperature }
  showProgress('one by one, to know the answers')
  const alone = await host.ask('library', { plan: { loop: 'closed', clients: 1, requestsEach: clients }, request })
  const expected = new Map(alone.answers.map((answer) => [answer.question, answer]))

  const url = await host.ask('serve', IMPATIENT)
  const askers: readonly Asker[] = [websocketAsker(url, request), sseAsker(url, request)]
  const gaps: number[] = []
  const samples: Crowd['samples'] = []
  let [done, wallMs, fairness] = [0, 0, 1]
  while (done < requests) {
    const plan = { loop: 'closed', clients, requestsEach: ROUND } as const
    const run = await runLoad(plan, (question) => askers[question % askers.length]!.ask(question))
    for (const answer of run.answers) {
      assertSame(answer, expected.get(answer.question % clients)!)
      gaps.push(...gapsOf(answer))
    }
    done += run.answers.length
    wallMs += run.wallMs
    fairness = Math.min(fairness, fairnessOf(clientsOf(run.answers, clients)))
    samples.push({ requests: done, ...(await resting(host)) })
    showProgress(`${done} of ${requests} requests`)
  }
  for (const asker of askers) asker.close()
  const crowd: Crowd = {
    kind: 'crowd',
    clients,
    requests: done,
    tokens: done * tokens,
    wallMs,
    gapMs: digestOf(gaps),
    fairness,
    samples,
  }
  const problems = crowdProblems(crowd)
  if (problems.length > 0) throw wrongResult(problems.join('; '))
  return crowd
}

/** What the host holds once nothing runs, for a request's last byte leaves before all of it is released. */
async function resting(host: HostProcess): Promise<Omit<Crowd['samples'][number], 'requests'>> {
  for (let look = 0; look < 100; look++) {
    const { engine, ...marks } = await host.ask('marks', { afterGc: true })
    const { heapBytes, externalBytes, rssBytes, files } = marks
    if (engine.running + engine.queued === 0) return { heapBytes, externalBytes, rssBytes, files }
  }
  throw wrongResult('the engine still runs requests that have been answered')
}

async function suffered(
  host: HostProcess,
  { name, inWords, fault, limits = IMPATIENT, size, quickSize }: FaultCase,
  quick: boolean,
): Promise<Fault> {
  showProgress(name)
  const chosen = quick ? quickSize : size
  const startMs = performance.now()
  const target = { url: await host.ask('serve', limits), marks: () => host.ask('marks', { afterGc: true }) }
  const finding = await inflict(target, fault(chosen))
  return { kind: 'fault', name, size: inWords(chosen), wallMs: performance.now() - startMs, ...finding }
}

async function stopped(stopping: Stopping): Promise<Fault> {
  showProgress('SIGTERM')
  const startMs = performance.now()
  const { stopMs, ...seen } = await stopUnderLoad(stopping)
  return {
    kind: 'fault',
    name: 'SIGTERM',
    size: `${stopping.clients} clients, ${stopping.drainSeconds} s to finish`,
    ...seen,
    restMs: stopMs,
    wallMs: performance.now() - startMs,
    heapGrowthBytes: 0,
    coalesced: 0,
    parked: 0,
    slowCloses: 0,
  }
}

function assertSame(answer: Timed, expected: Answer): void {
  const isSame = answer.text === expected.text && (answer.ids === null || answer.ids.join() === expected.ids!.join())
  if (!isSame) throw wrongResult(`request ${answer.question} got another answer than alone`)
}

/** Of each client over all its requests. */
function clientsOf(answers: readonly Timed[], clients: number): { readonly tpotMs: number }[] {
  return Array.from({ length: clients }, (_, client) => {
    const own = answers.filter(({ question }) => question % clients === client)
    return { tpotMs: own.reduce((sum, answer) => sum + tpotOf(answer), 0) / own.length }
  })
}

await runBench(
  benchCommand(BENCH, 'Many clients, many requests, and what clients do to a server by accident or on purpose.')
    .option('--model <dir>', 'model folder', 'demo')
    .option('--clients <n>', 'clients at once', wholeNumber(2), 64)
    .option('--requests <n>', 'requests in all, at least', wholeNumber(), 10_000)
    .option('--tokens <n>', 'tokens of an answer', wholeNumber(2), 32)
    .option('--prompt-lengths <n,n…>', 'tokens of the prompts, in turn', numberList(), [16, 32, 64])
    .option('--temperature <t>', '0 is greedy', Number, 0.8)
    .option('--threads <n>', 'compute threads; 0 is one per physical core', wholeNumber(0), 1)
    .option('--quick', 'only show that it runs')
    .addHelpText('after', '\nWith default options and the demo model: a few minutes.')
    .action(main),
)
