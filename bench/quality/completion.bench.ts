// Question: how well is the next line of code completed from a long context when only some rows of the KV cache are kept?
//
// Expected from arithmetic: nothing can be computed beforehand; LongBench's LCC with Mistral 7B lost nothing at budget 1024 of some 13K
// (55.65 against 55.51: SnapKV paper). Most of a line comes of the lines just above it, which the window and what it attends to hold.
//
//   npm run bench -- quality/completion
//
// The contexts are this project's own TypeScript: files in path order, each after a line with its path, cut to a length in front. Lines are
// drawn with a seed, and are the same for every length and arm. Scored as LongBench scores LCC: edit similarity of the first line of code.
import { runBench } from '../support/command.js'
import { editSimilarity, isLineComplete } from './edit-similarity.js'
import { type Case, encoderOf, measure, type QualityOptions, qualityCommand } from './run.js'
import { chooseCompletions, completionPrompt, completionsOf, fileText, readSources } from './sources.js'

interface Options extends QualityOptions {
  readonly data: string
  readonly folders: string
}

/** As LongBench allows. */
const MAX_TOKENS = 64

async function main(options: Options): Promise<void> {
  const { data, folders, lengths, cases, seed } = options
  const files = await readSources(data, folders.split(','))
  const chosen = chooseCompletions(completionsOf(files), cases, seed)
  await measure<Options>({
    bench: 'quality/completion',
    options,
    cases: chosen.length,
    notes: () => ({ files: files.length }),
    async *rounds(engine) {
      const { encode, prefix } = await encoderOf(engine)
      const ids = new Map<number, Promise<Int32Array>>()
      const idsOf = (file: number): Promise<Int32Array> => {
        if (!ids.has(file)) ids.set(file, encode(fileText(files[file]!)))
        return ids.get(file)!
      }
      for (const [index, completion] of chosen.entries()) {
        const round: Case[] = []
        for (const length of lengths) {
          const prompt = await completionPrompt(files, completion, length, { prefix, encode, idsOf })
          round.push({
            length,
            index,
            promptTokens: length,
            prompt,
            question: { maxTokens: MAX_TOKENS, isDone: isLineComplete },
            score: (answer) => editSimilarity(answer, completion.expected),
          })
        }
        yield round
      }
    },
  })
}

await runBench(
  qualityCommand(
    'quality/completion',
    'The next line of code, completed over the full cache and over rows kept of it.',
    {
      lengths: [4096, 8192, 12288, 14336],
      lengthsAre: 'tokens of a prompt',
      cases: 60,
      casesAre: 'lines to complete',
      minutes: 1.5,
      quick: { lengths: [1024, 2048], cases: 3 },
    },
  )
    .option('--data <dir>', 'folder of a TypeScript project', '.')
    .option('--folders <list>', 'folders of it', 'src,test')
    .action(main),
)
