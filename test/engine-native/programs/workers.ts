// Engines in worker threads: some generate, some are terminated while they do. Argument: a model folder. Prints the texts, and the main
// thread's own after all that.
import { once } from 'node:events'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { loadEngine } from '../../../src/index.js'

const PROMPT = 'export function mean(values: readonly number[]): number {\n'

interface Task {
  readonly dir: string
  readonly isEndless: boolean
}

async function textOf(dir: string): Promise<string> {
  await using engine = await loadEngine(dir)
  return (await engine.generate(PROMPT, { maxTokens: 40, ignoreEos: true })).text
}

function start(dir: string, isEndless: boolean): Worker {
  return new Worker(new URL(import.meta.url), { workerData: { dir, isEndless } satisfies Task })
}

async function main(dir: string) {
  const working = [false, false, true, true].map((isEndless) => start(dir, isEndless))
  const messages = await Promise.all(working.map((worker) => once(worker, 'message') as Promise<[string]>))
  await Promise.all(working.map((worker) => worker.terminate()))
  const after = await textOf(dir)
  return { texts: [...messages.slice(0, 2).map(([text]) => text), after], after }
}

if (isMainThread) {
  process.stdout.write(JSON.stringify(await main(process.argv[2]!)))
} else {
  const { dir, isEndless } = workerData as Task
  if (!isEndless) parentPort!.postMessage(await textOf(dir))
  else {
    const engine = await loadEngine(dir)
    const endless = [1, 2, 3].map(() => engine.generate(PROMPT, { maxTokens: 15_000, ignoreEos: true }))
    for await (const { text } of endless[0]!) parentPort!.postMessage(text)
  }
}
