// Question: up to which length, and how deep in a text, is one sentence still found when only some rows of the KV cache are kept?
//
// Expected from arithmetic: the needle is about 14 tokens. A window of the last rows (StreamingLLM) holds it only in the last
// budget / length of the depths: 10 % of them at 1024 of 10K. Rows that the question attends to hold it everywhere, at any budget that
// holds the window (32), the needle and its pool's neighbours: well below 128.
//
//   npm run bench -- quality/needle --data FILE
//
// Any long text will do as a haystack. Word and number are drawn anew for every question; greedy; right when the first number generated is
// the needle's. Every arm is asked the same questions.
import { GorgonError } from '../../src/index.js'
import { nameOfPath, runBench, wholeNumber } from '../support/command.js'
import { isRightNumber, NEEDLE_STOP, needlePrompt, readHaystack } from './haystack.js'
import { Choices } from './random.js'
import { type Case, encoderOf, measure, type QualityOptions, qualityCommand } from './run.js'

interface Options extends QualityOptions {
  readonly data?: string
  readonly depths: number
}

const MAX_TOKENS = 12

async function main(options: Options): Promise<void> {
  const { data, lengths, depths, cases, seed } = options
  const haystack = await readHaystack(data)
  await measure<Options>({
    bench: 'quality/needle',
    options: { ...options, data: nameOfPath(data!) },
    cases: cases * depths,
    async *rounds(engine) {
      const encoder = await encoderOf(engine)
      const tooLong = lengths.filter((length) => length + MAX_TOKENS > engine.info.context)
      if (tooLong.length > 0) {
        throw new GorgonError(
          'ERR_OPTION',
          `--lengths: ${tooLong.join(', ')} and an answer of ${MAX_TOKENS} tokens do not fit the model's context of ${engine.info.context}.`,
          { tooLong },
        )
      }
      for (let time = 0; time < cases; time++) {
        // A round asks about one depth of every length, each length in an order of its own: what is missing when time runs out is spread.
        const orders = lengths.map((length) =>
          new Choices(`depths ${seed} ${time} ${length}`).shuffle(Array.from({ length: depths }, (_, depth) => depth)),
        )
        for (let turn = 0; turn < depths; turn++) {
          const round: Case[] = []
          for (const [i, length] of lengths.entries()) {
            const depth = orders[i]![turn]!
            const share = depths === 1 ? 0.5 : depth / (depths - 1)
            const place = { length, depth: share, seed: `needle ${seed} ${length} ${depth} ${time}` }
            const { tokens, expected } = await needlePrompt(haystack, place, encoder)
            round.push({
              length,
              index: time * depths + depth,
              promptTokens: tokens.length,
              prompt: tokens,
              question: { maxTokens: MAX_TOKENS, stop: NEEDLE_STOP },
              score: (answer) => (isRightNumber(answer, expected) ? 1 : 0),
            })
          }
          yield round
        }
      }
    },
  })
}

await runBench(
  qualityCommand(
    'quality/needle',
    'One sentence in a long text, looked for over the full cache and over rows kept of it.',
    {
      lengths: [1024, 2048, 4096, 8192, 12288, 14336],
      lengthsAre: 'tokens of a prompt',
      cases: 2,
      casesAre: 'times every cell is asked',
      minutes: 1.5,
      quick: { lengths: [1024, 2048], cases: 1 },
    },
  )
    .option('--data <file>', 'the haystack: any long text')
    .option('--depths <n>', 'places of the needle, evenly from the beginning to the end', wholeNumber(), 10)
    .action(main),
)
