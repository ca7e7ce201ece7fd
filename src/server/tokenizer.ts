// Text to token ids and back, over HTTP.
import { z } from 'zod'
import { flag, integer, strict, text } from '../schema.js'
import type { ServerContext } from './context.js'
import type { Route } from './http.js'

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
  tokens: z.array(integer(0), 'an array of token ids'),
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
        const { id, engine } = intake.engineOf(model)
        const leave = intake.enter(exchange.principal)
        try {
          const tokens = Array.from(await engine.tokenize(text, { addSpecial }))
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
        intake.enter(exchange.principal)()
        exchange.json(200, { model: id, text: engine.detokenize(tokens, { skipSpecial }) })
      },
    },
  ]
}
