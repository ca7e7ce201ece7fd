// What every part of a server is made with.
import type { Guard } from './auth.js'
import type { Intake } from './intake.js'
import type { Metrics } from './metrics.js'
import type { Responses } from './openai/responses.js'
import type { ServerOptions } from './options.js'

export interface ServerContext {
  readonly options: ServerOptions
  readonly guard: Guard
  readonly intake: Intake
  /** Those that may be gone on from, over HTTP and sockets. */
  readonly responses: Responses
  readonly metrics: Metrics
}
