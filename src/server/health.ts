// Whether the process lives, and whether it takes work: what supervisors and balancers ask.
import type { ServerContext } from './context.js'
import type { Exchange, Route } from './http.js'

/** When a balancer may look again. */
const RETRY_AFTER_S = '1'

/**
 * `/health/live` answers while the process can answer at all. `/health/ready`, and `/health`, which is the same, answer 200 while new work is
 * taken, and 503 while models load, when one failed to or was closed, and from the moment the server is told to stop. A full queue is no reason to say no:
 * it answers 429 by itself, and taking full replicas away from their balancer would leave more work to the others.
 */
export function healthRoutes({ intake, options }: Pick<ServerContext, 'intake' | 'options'>): readonly Route[] {
  const ready = (exchange: Exchange): void => {
    const status = intake.state
    const progress = status === 'loading' ? options.loading?.() : undefined
    answer(exchange, status === 'ready' ? 200 : 503, { status, ...progress })
  }
  return [
    {
      method: 'GET',
      path: '/health/live',
      isPublic: true,
      handle: (exchange) => answer(exchange, 200, { status: 'live' }),
    },
    { method: 'GET', path: '/health/ready', isPublic: true, handle: ready },
    { method: 'GET', path: '/health', isPublic: true, handle: ready },
  ]
}

function answer(exchange: Exchange, status: 200 | 503, body: object): void {
  const retryAfter = status === 503 && { 'retry-after': RETRY_AFTER_S }
  exchange.json(status, body, { 'cache-control': 'no-store', ...retryAfter })
}
