// Question: how many numbers does a model still find in a long record when only some rows of its KV cache are kept?
//
// Expected from arithmetic: the line that is asked about is some 27 tokens of 5K to 14K. Rows kept evenly would hold budget / prompt of it
// (7 % of 14K at 1024) and answer next to nothing; rows chosen by the question's own attention should hold all of it, and answer as the
// full cache does, down to a budget of a few lines. The first digit is always right where the full cache is: it comes of the prompt's
// own pass, before rows are dropped.
//
//   npm run bench -- quality/longeval --data FOLDER
//
// The cases are LongEval's, in file order; greedy; right when the number generated is the expected one.
import { GorgonError } from '../../src/index.js'
import { nameOfPath, runBench } from '../support/command.js'
import { isRightLine, LINES_STOP, readLines } from './lines.js'
import { type Case, measure, type QualityOptions, qualityCommand } from './run.js'

interface Options extends QualityOptions {
  readonly data?: string
}

const MAX_TOKENS = 16

async function main(options: Options): Promise<void> {
  const { data, lengths, cases } = options
  const files = await readLines(data)
  const missing = lengths.filter((lines) => !files.has(lines))
  if (missing.length > 0) {
    throw new GorgonError(
      'ERR_OPTION',
      `--lengths: ${data!} has no cases of ${missing.join(', ')} lines. It has ${[...files.keys()].join(', ')}.`,
      { missing },
    )
  }
  const tooLong = new Map<number, number>()
  await measure<Options>({
    bench: 'quality/longeval',
    options: { ...options, data: nameOfPath(data!) },
    cases,
    notes: () => ({ tooLong: Object.fromEntries(tooLong) }),
    async *rounds(engine) {
      for (let index = 0; index < cases; index++) {
        const round: Case[] = []
        for (const lines of lengths) {
          const one = files.get(lines)![index]
          if (!one) continue
          const prompt = await engine.tokenize(one.prompt)
          if (prompt.length + MAX_TOKENS > engine.info.context) {
            tooLong.set(lines, (tooLong.get(lines) ?? 0) + 1)
            continue
          }
          round.push({
            length: lines,
            index,
            promptTokens: prompt.length,
            prompt,
            question: { maxTokens: MAX_TOKENS, stop: LINES_STOP },
            score: (answer) => (isRightLine(answer, one.expected) ? 1 : 0),
          })
        }
        yield round
      }
    },
  })
}

await runBench(
  qualityCommand('quality/longeval', 'LongEval-lines, answered over the full cache and over rows kept of it.', {
    lengths: [200, 300, 400, 500],
    lengthsAre: 'lines of a record, as its file is named',
    cases: 25,
    casesAre: 'cases of each file',
    minutes: 1.5,
    quick: { lengths: [200], cases: 2 },
  })
    .option('--data <dir>', 'folder of LongEval cases')
    .action(main),
)
