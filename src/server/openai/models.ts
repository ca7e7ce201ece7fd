// GET /v1/models and /v1/models/{model}.
import { GorgonError } from '../../errors.js'
import type { ServerContext } from '../context.js'
import type { Route } from '../http.js'
import type { ServedModel } from '../served-models.js'

interface ModelEntry {
  readonly id: string
  readonly object: 'model'
  readonly created: number
  readonly owned_by: string
  /** Tokens of prompt and output together; of a model that is loaded. */
  readonly max_model_len?: number
}

export function modelsRoutes({ intake }: ServerContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/v1/models',
      handle: (exchange) => exchange.json(200, { object: 'list', data: intake.models().map(entryOf) }),
    },
    {
      method: 'GET',
      // Names may have slashes, which not every client encodes.
      path: '/v1/models/:model*',
      handle(exchange) {
        const { model } = exchange.params
        const found = intake.models().find(({ id }) => id === model)
        if (!found) {
          throw new GorgonError('ERR_MODEL_UNKNOWN', `There is no model "${model}" here. GET /v1/models lists them.`, {
            path: 'model',
            value: model,
          })
        }
        exchange.json(200, entryOf(found))
      },
    },
  ]
}

function entryOf({ id, created, engine }: ServedModel): ModelEntry {
  return {
    id,
    object: 'model',
    created,
    owned_by: 'gorgon',
    ...(engine && { max_model_len: engine.info.context }),
  }
}
