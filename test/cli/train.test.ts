// gorgon train: what it prints, where it prints it, and how an interrupted run is taken up again.
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import type { TrainingReport } from '../../heads/index.js'
import { temporaryFolder } from '../support/folder.js'
import { headsBytes, numbersOf, SHORT, tinyTrainee, writeTexts } from '../support/training-run.js'
import { errorLine, gorgon, type Surroundings } from './command.js'

const dir = temporaryFolder()
let model: string
let data: string

beforeAll(async () => {
  model = await tinyTrainee(join(dir, 'model'))
  data = writeTexts(join(dir, 'texts.jsonl'))
})

let count = 0
const newOut = () => join(dir, `out-${count++}`)

/** The flags of SHORT. */
const FLAGS =
  `--heads ${SHORT.heads} --steps ${SHORT.steps} --batch-tokens ${SHORT.batchTokens} --learning-rate ${SHORT.learningRate}
  --held-out ${SHORT.heldOut} --evaluate-every ${SHORT.evaluateEvery} --checkpoint-every ${SHORT.checkpointEvery} --backend cpu --threads 1`.split(
    /\s+/,
  )

const train = (out: string, more: readonly string[] = [], around?: Surroundings) =>
  gorgon(['train', '--model', model, '--data', data, '--out', out, ...FLAGS, ...more], around)

describe('a run', () => {
  test('prints a summary, a line for each look at the held-out texts, and nothing else', async () => {
    const out = newOut()
    const { exitCode, stdout, stderr } = await train(out)
    expect(exitCode).toBe(0)
    const lines = stderr.trim().split('\n')
    expect(lines).toHaveLength(4)
    for (const [i, line] of lines.entries()) {
      expect(line).toMatch(new RegExp(`^step ${2 * i}: held-out loss \\d\\.\\d{3}, top-1/5/10( \\d+/\\d+/\\d+){2} %$`))
    }
    expect(stdout).toMatch(/^heads +2 of 1 block, in /m)
    expect(stdout).toMatch(/^texts +\d+ texts, \d+ tokens; \d+ texts? held out$/m)
    expect(stdout).toMatch(/^training +6 steps, [\d.]+ epochs?, \d+ tokens in 0:\d\d: \d+ tokens\/s$/m)
    expect(stdout).toMatch(/^on +cpu \(\w+, f32\), 1 threads/m)
    expect(stdout).toMatch(/^memory +[\d.]+ [KM]iB for training, [\d.]+ [MG]iB of the process$/m)
    expect(stdout).toMatch(/^head +positions +loss +top-1 +top-5 +top-10$/m)
    expect(stdout).toContain(`gorgon generate --model ${model} --heads ${out} PROMPT`)
  })

  test('prints one object with --json', async () => {
    const { stdout } = await train(newOut(), ['--json'])
    const report = JSON.parse(stdout) as TrainingReport
    expect(report).toMatchObject({ heads: 2, layers: 1, private: false, steps: 6, resumedFrom: null })
    expect(report.heldOut!.heads).toHaveLength(2)
  })

  test('shows a bar on a terminal, with the loss and the shares of each head', async () => {
    const { stderr } = await train(newOut(), [], { isTerminal: true })
    expect(stderr).toMatch(/training \[=+\] 100% loss \d\.\d\d, top-1( \d+){2} %, \d+ tokens\/s, 0:0\d left/)
    expect(stderr).toMatch(/step 0: held-out loss .* %$/m)
  })

  test('takes several paths, and every flag', async () => {
    const more = join(dir, 'more.jsonl')
    const other = join(dir, 'other.jsonl')
    writeFileSync(more, '{"ids":[5,6,7,8,9,10,11,12]}\n')
    writeFileSync(other, '{"ids":[6,7,8,9,10,11,12,13]}\n')
    const out = newOut()
    const flags = `--layers 2 --private --field ids --context 20 --warmup 0.5 --weight-decay 0 --clip 0.5 --depth-decay 1 --seed 3
      --hidden-cache off --dtype f32 --json`
    const { exitCode, stdout, stderr } = await gorgon([
      'train',
      '--model',
      model,
      '--out',
      out,
      '--data',
      data,
      more,
      '--data',
      other,
      ...FLAGS,
      ...flags.split(/\s+/),
    ])
    expect({ exitCode, error: stderr.includes('gorgon:') }).toEqual({ exitCode: 0, error: false })
    const report = JSON.parse(stdout) as TrainingReport
    expect(report).toMatchObject({ layers: 2, private: true })
    expect(report.data.files).toBe(3)
    expect(report.data.documents + report.data.heldOutDocuments).toBe(22)
  })
})

describe('an interrupted run', () => {
  test('says what is left, and goes on from there with --resume', async () => {
    const long = ['--steps', '200', '--evaluate-every', '50']
    const whole = newOut()
    await train(whole, long)
    const out = newOut()
    const interruption = new AbortController()
    const running = train(out, long, { signal: interruption.signal })
    await expect.poll(() => existsSync(join(out, 'checkpoint')), { timeout: 30_000, interval: 1 }).toBe(true)
    interruption.abort()
    const { exitCode, stdout, stderr } = await running
    expect({ exitCode, stdout }).toEqual({ exitCode: 130, stdout: '' })
    expect(stderr).toMatch(
      /^gorgon: stopped after step \d+ of 200\. Go on with the same command and --resume: .* has a checkpoint\.$/m,
    )
    const resumed = await train(out, [...long, '--resume'])
    expect(resumed.exitCode).toBe(0)
    expect(resumed.stdout).toMatch(/\(from step \d+ on here\)/)
    expect(await numbersOf(out)).toEqual(await numbersOf(whole))
    expect(headsBytes(out).equals(headsBytes(whole))).toBe(true)
  })

  test('that went on, and did not come far, has its checkpoint still', async () => {
    const out = newOut()
    await train(out)
    const early = await train(out, ['--resume'], { signal: AbortSignal.abort() })
    expect(early.exitCode).toBe(130)
    expect(early.stderr).toMatch(/^gorgon: stopped before another step\. .* the checkpoint in .* is as it was\.$/m)
  })

  test('while the model wrote texts keeps those that are done', async () => {
    const out = newOut()
    const stop = new AbortController()
    const running = train(out, ['--self-distill', '20000'], { signal: stop.signal })
    const texts = join(out, 'self-distilled.jsonl')
    await expect
      .poll(() => existsSync(texts) && statSync(texts).size, { timeout: 30_000, interval: 1 })
      .toBeGreaterThan(0)
    stop.abort()
    const { exitCode, stderr } = await running
    expect(exitCode).toBe(130)
    expect(stderr).toMatch(
      /stopped before training began\. The texts that the model finished are in .*: the same command/,
    )
    expect(readFileSync(texts, 'utf8')).toMatch(/\n$/)
  })

  test('before it began says so', async () => {
    const { exitCode, stderr } = await train(newOut(), [], { signal: AbortSignal.abort() })
    expect(exitCode).toBe(130)
    expect(stderr).toBe('gorgon: stopped before training began.\n')
  })
})

describe('what cannot be done is refused:', () => {
  test.each<[readonly string[], number, RegExp]>([
    [[], 2, /ERR_OPTION: --out is missing: give the folder to write to/],
    [['--out', 'x'], 2, /ERR_OPTION: --data is missing: give files or folders of text/],
    [['--out', 'x', '--data', 'y', '--learning-rate', '0'], 2, /--learning-rate is 0: use a number above 0/],
    [['--out', 'x', '--data', 'y', '--steps', '5', '--epochs', '2'], 2, /--steps is 5 and epochs is 2: give one/],
    [['--out', 'x', '--data', 'y', '--layers', '0'], 2, /--layers is 0, which leaves nothing to train/],
    [['--out', 'x', '--data', 'y', '--heads', './heads'], 2, /--heads is ".\/heads": use a whole number from 1 to 63/],
    [['--out', 'x', '--data', 'y', '--held-out', 'some'], 2, /--held-out is "some": use a number from 0 to 0\.5/],
    [['--out', 'x', '--data', 'y', '--wight-decay', '1'], 2, /Did you mean --weight-decay/],
  ])('%j', async (argv, code, says) => {
    const { exitCode, stdout, stderr } = await gorgon(['train', ...argv])
    expect({ exitCode, stdout }).toEqual({ exitCode: code, stdout: '' })
    expect(errorLine(stderr)).toMatch(says)
    expect(stderr).toMatch(/Try: gorgon train --help\n$/)
  })

  test('texts that are not there, a folder that is taken, a checkpoint that is not', async () => {
    const missing = await gorgon(['train', '--model', model, '--data', '/nowhere', '--out', newOut()])
    expect(missing.exitCode).toBe(2)
    expect(errorLine(missing.stderr)).toMatch(/^gorgon: ERR_FILE: \/nowhere cannot be read/)
    const out = newOut()
    await train(out)
    const taken = await train(out)
    expect(taken.exitCode).toBe(2)
    expect(errorLine(taken.stderr)).toMatch(/^gorgon: ERR_CHECKPOINT: .*already holds a checkpoint/)
    const nothing = await train(newOut(), ['--resume'])
    expect(nothing.exitCode).toBe(2)
    expect(errorLine(nothing.stderr)).toMatch(/^gorgon: ERR_CHECKPOINT: .*has no checkpoint/)
  })
})
