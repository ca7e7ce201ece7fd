// What is served of OpenAI's API over HTTP.
import type { ServerContext } from '../context.js'
import type { Route } from '../http.js'
import { chatRoutes } from './chat.js'
import { completionsRoutes } from './completions.js'
import { modelsRoutes } from './models.js'
import { responsesRoutes } from './responses-http.js'

export function openaiRoutes(context: ServerContext): readonly Route[] {
  return [
    ...chatRoutes(context),
    ...completionsRoutes(context),
    ...modelsRoutes(context),
    ...responsesRoutes(context.responses),
  ]
}
