// /v1/responses over HTTP: made, looked up, ended, forgotten.
import { z } from 'zod'
import type { Message } from '../../index.js'
import { integer, oneOf, parse } from '../../schema.js'
import type { Exchange, Route } from '../http.js'
import { unsupported } from './fields.js'
import { untilBegun } from './patience.js'
import type { Responses } from './responses.js'
import { ResponseBody } from './responses-input.js'
import type { RunningResponse } from './running-response.js'

export function responsesRoutes(responses: Responses): readonly Route[] {
  const path = '/v1/responses/:id'
  const idOf = ({ params }: Exchange): string => params['id']!
  return [
    { method: 'POST', path: '/v1/responses', handle: (exchange) => create(exchange, responses) },
    {
      method: 'GET',
      path,
      handle(exchange) {
        if (exchange.url.searchParams.get('stream') === 'true') {
          throw unsupported('stream', 'events are told once, to whoever made the response. Leave it out for its state')
        }
        exchange.json(200, responses.get(idOf(exchange), exchange.principal))
      },
    },
    {
      method: 'DELETE',
      path,
      handle(exchange) {
        const id = idOf(exchange)
        responses.delete(id, exchange.principal)
        exchange.json(200, { id, object: 'response', deleted: true })
      },
    },
    {
      method: 'POST',
      path: `${path}/cancel`,
      handle: async (exchange) => exchange.json(200, await responses.cancel(idOf(exchange), exchange.principal)),
    },
    {
      method: 'GET',
      path: `${path}/input_items`,
      handle(exchange) {
        const id = idOf(exchange)
        exchange.json(200, pageOf(itemsOf(id, responses.inputOf(id, exchange.principal)), exchange.url.searchParams))
      },
    },
  ]
}

async function create(exchange: Exchange, responses: Responses): Promise<void> {
  const { principal, signal } = exchange
  const body = await exchange.body(ResponseBody)
  const running = await responses.begin({ principal, endpoint: 'responses', body, signal })
  if (body.stream) await stream(exchange, running)
  else exchange.json(200, await whole(running))
}

/** @throws what it failed for: the status says it. */
async function whole(running: RunningResponse): Promise<object> {
  for await (const _ of running.events()) {
    // Read to the end, or the generation waits.
  }
  const { response, problem, error } = await running.ended
  if (problem) throw error
  return response
}

async function stream(exchange: Exchange, running: RunningResponse): Promise<void> {
  await untilBegun(running.begun)
  const events = exchange.events()
  let sequence_number = 0
  for await (const event of running.events()) {
    await events.send(event.type, { ...event, sequence_number })
    sequence_number++
  }
  await events.send(null, '[DONE]')
}

interface InputItem {
  readonly id: string
  readonly type: 'message'
  readonly role: string
  readonly status: 'completed'
  readonly content: readonly object[]
}

/** Of its own request; what it went on from has its own. */
function itemsOf(id: string, input: readonly Message[]): InputItem[] {
  return input.map(({ role, content }, i) => ({
    id: `${id}_input_${i}`,
    type: 'message',
    role,
    status: 'completed',
    content: [
      role === 'assistant'
        ? { type: 'output_text', text: content, annotations: [] }
        : { type: 'input_text', text: content },
    ],
  }))
}

const PageQuery = z.object({
  limit: z.coerce.number('a whole number from 1 to 100').pipe(integer(1, 100)).default(20),
  order: oneOf(['asc', 'desc']).default('desc'),
  after: z.string().optional(),
})

/** @throws {GorgonError} ERR_OPTION. */
function pageOf(items: readonly InputItem[], query: URLSearchParams): object {
  const { limit, order, after } = parse(PageQuery, Object.fromEntries(query))
  const ordered = order === 'asc' ? items : items.toReversed()
  const begin = ordered.findIndex(({ id }) => id === after) + 1
  const data = ordered.slice(begin, begin + limit)
  return {
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: begin + limit < ordered.length,
  }
}
