// Text to token ids and back, over HTTP.
import { z } from 'zod'
import { GorgonError } from '../errors.js'
import { flag, integer, list, strict, text } from '../schema.js'
import type { ServerContext } from './context.js'
import type { Route } from './http.js'

/** Turning ids into text holds up everybody else for as long as it takes. */
const MOST_IDS = 65_536
const IDS_FORMS = `an array of at most ${MOST_IDS} token ids`

/** Texts are encoded one after another: a million characters take about a second of everybody's time. */
const MOST_CHARACTERS = 1_000_000

const Tokenize = strict({
  /** Default: the server's first. */
  model: text('the name of a model').optional(),
  text: z.string('a string'),
  /** Put in the special tokens that a prompt gets. Default true. */
  addSpecial: flag().default(true),
})

const Detokenize = strict({
  /** Default: the server's first. */
  model: text('the name of a model').optional(),
  tokens: list(integer(0), IDS_FORMS).max(MOST_IDS, IDS_FORMS),
  /** Leave special tokens out of the text. Default true. */
  skipSpecial: flag().default(true),
})

export function tokenizerRoutes({ intake }: ServerContext): readonly Route[] {
  return [
    {
      method: 'POST',
      path: '/tokenize',
      async handle(exchange) {
        const { model, text, addSpecial } = await exchange.body(Tokenize)
        if (text.length > MOST_CHARACTERS) {
          const message = `The text has ${text.length} characters, more than ${MOST_CHARACTERS}. Send it in parts.`
          throw new GorgonError('ERR_TOO_LARGE', message, { path: 'text', characters: text.length })
        }
        const { id, engine } = intake.engineOf(model)
        const leave = intake.enter(exchange.principal)
        try {
          const tokens = Array.from(await engine.tokenize(text, { addSpecial, signal: exchange.signal }))
          exchange.json(200, { model: id, tokens, count: tokens.length })
        } finally {
          leave()
        }
      },
    },
    {
      method: 'POST',
      path: '/detokenize',
      async handle(exchange) {
        const { model, tokens, skipSpecial } = await exchange.body(Detokenize)
        const { id, engine } = intake.engineOf(model)
        assertKnown(tokens, engine.info.vocab)
        intake.enter(exchange.principal)()
        exchange.json(200, { model: id, text: engine.detokenize(tokens, { skipSpecial }) })
      },
    },
  ]
}

function assertKnown(tokens: readonly number[], vocab: number): void {
  const index = tokens.findIndex((id) => id >= vocab)
  if (index < 0) return
  throw new GorgonError(
    'ERR_TOKEN_RANGE',
    `tokens[${index}] is ${tokens[index]}, but the model has ${vocab} tokens. Send ids that this model made.`,
    { path: `tokens[${index}]`, value: tokens[index], vocab },
  )
}
