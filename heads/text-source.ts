// Options that say which texts are read, the same wherever heads learn from texts or are judged by them.
import { z } from 'zod'
import { list, text } from '../src/schema.js'

const FORMS = 'a file or folder of text, or an array of them'
const SEEDS = 'a whole number from 0 to 2^53 - 1'

/** @param fewest paths that there must be. */
export const textSource = (fewest: number) => ({
  /**
   * Files of text, or folders of them. `.jsonl` has a text or token ids per line, `.json` arrays of token ids, any other file is text.
   */
  data: z
    .union([text(FORMS), list(text(FORMS), FORMS, fewest).readonly()], { error: FORMS })
    .transform((data): readonly string[] => (typeof data === 'string' ? [data] : data)),
  /** What the text is called in the objects of `.jsonl` files. Default `text`. */
  field: text('the name of a field').default('text'),
  seed: z.int(SEEDS).min(0, SEEDS).default(1),
})
