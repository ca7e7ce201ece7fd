// Small training runs: a tiny model, texts it can learn something from, and what a run leaves in its folder.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type LogLine, readTrainingLog } from '../../heads/train/log.js'
import type { TrainOptionsInput } from '../../heads/train/options.js'
import { type TinyModelOptions, writeTinyModel } from './tiny-model.js'

const VOCAB = 64

export async function tinyTrainee(dir: string, options: TinyModelOptions = {}): Promise<string> {
  return (await writeTinyModel(dir, { hidden: 32, ffn: 48, vocab: VOCAB, maxPositions: 64, ...options })).dir
}

/** Texts that count up, each by a step of its own: a token tells a good deal about those after it. */
export function writeTexts(path: string, count = 20): string {
  const texts = Array.from({ length: count }, (_, i) =>
    Array.from({ length: 24 + (i % 5) }, (_, t) => (3 + i + t * (1 + (i % 2))) % VOCAB),
  )
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, texts.map((ids) => `${JSON.stringify(ids)}\n`).join(''))
  return path
}

/** What the runs of tests have in common: a few steps of a few texts, on one thread. */
export const SHORT = {
  heads: 2,
  steps: 6,
  batchTokens: 100,
  learningRate: 0.01,
  heldOut: 0.2,
  evaluateEvery: 2,
  checkpointEvery: 3,
  backend: 'cpu',
  threads: 1,
} as const satisfies Partial<TrainOptionsInput>

/** Of a log: what does not depend on how fast the machine is. */
export async function numbersOf(out: string): Promise<unknown[]> {
  const lines = await readTrainingLog(join(out, 'training.jsonl'))
  return lines.map((line: LogLine) => {
    const { seconds: _, ...numbers } = { seconds: 0, ...line }
    return numbers
  })
}

export const headsBytes = (out: string): Buffer => readFileSync(join(out, 'medusa_lm_head.safetensors'))
