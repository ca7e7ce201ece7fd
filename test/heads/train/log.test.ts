// A log of training: what is written is read again, and cut back to the step from which a run goes on.
import { appendFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type LogLine, readTrainingLog, TrainingLog } from '../../../heads/train/log.js'
import { failure } from '../../support/errors.js'
import { temporaryFolder } from '../../support/folder.js'

const dir = temporaryFolder()

const heads = [{ positions: 3, loss: 1.5, top1: 0.5, top5: 0.75, top10: 1 }]
const step = (number: number): LogLine => ({
  kind: 'step',
  step: number,
  epoch: 0,
  loss: 1 / number,
  heads,
  learningRate: 1e-3,
  gradientNorm: 0.1,
  tokens: 10,
  seconds: number,
})
const heldOut = (number: number): LogLine => ({ kind: 'held-out', step: number, loss: 2, heads })

async function write(path: string, lastStep: number | null, lines: readonly LogLine[]): Promise<void> {
  const log = await TrainingLog.open(path, lastStep)
  for (const line of lines) await log.write(line)
  await log.sync()
  await log.close()
}

test('lines come back as they were written', async () => {
  const path = join(dir, 'whole.jsonl')
  await write(path, null, [heldOut(0), step(1), step(2)])
  expect(await readTrainingLog(path)).toEqual([heldOut(0), step(1), step(2)])
})

test('a run that begins anew begins an empty log', async () => {
  const path = join(dir, 'anew.jsonl')
  await write(path, null, [step(1)])
  await write(path, null, [step(1), step(2)])
  expect(await readTrainingLog(path)).toEqual([step(1), step(2)])
})

test('a run that goes on keeps the lines up to its checkpoint, and no torn one', async () => {
  const path = join(dir, 'resumed.jsonl')
  await write(path, null, [heldOut(0), step(1), step(2), heldOut(2), step(3), step(4)])
  await appendFile(path, '{"kind":"step","step":5,"lo')
  await write(path, 2, [step(3)])
  expect(await readTrainingLog(path)).toEqual([heldOut(0), step(1), step(2), heldOut(2), step(3)])
})

test('a log knows after which step it last looked at held-out texts', async () => {
  const path = join(dir, 'looked.jsonl')
  await write(path, null, [heldOut(0), step(1), step(2), heldOut(2), step(3), step(4), heldOut(4)])
  for (const [lastStep, expected] of [
    [4, 4],
    [3, 2],
    [1, 0],
    [null, null],
  ] as const) {
    const log = await TrainingLog.open(path, lastStep)
    expect(log.lastHeldOutStep).toBe(expected)
    if (expected === null) await log.write(heldOut(7))
    expect(log.lastHeldOutStep).toBe(expected ?? 7)
    await log.close()
  }
})

test('a torn end is left out when the log is read', async () => {
  const path = join(dir, 'torn.jsonl')
  await write(path, null, [step(1)])
  await appendFile(path, '{"kind":"step","step":2')
  expect(await readTrainingLog(path)).toEqual([step(1)])
})

test('a line that is none is told, and a run that goes on stops there', async () => {
  const path = join(dir, 'foreign.jsonl')
  await writeFile(path, `${JSON.stringify(step(1))}\nnonsense\n${JSON.stringify(step(2))}\n`)
  await failure(() => readTrainingLog(path), 'ERR_FILE', /foreign\.jsonl:2/)
  await write(path, 2, [])
  expect(await readFile(path, 'utf8')).toBe(`${JSON.stringify(step(1))}\n`)
})

test('what cannot be read or written is told by name', async () => {
  await failure(() => readTrainingLog(join(dir, 'none.jsonl')), 'ERR_FILE', /none\.jsonl/)
  await failure(() => TrainingLog.open(join(dir, 'no-folder', 'training.jsonl'), null), 'ERR_WRITE', /no-folder/)
})
