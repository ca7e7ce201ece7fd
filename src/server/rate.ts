// How much one principal may ask for: at once, and in a minute.
import { GorgonError } from '../errors.js'
import type { Principal } from './auth.js'
import type { ServerLimits } from './options.js'

const MINUTE_MS = 60_000
/** Something will have ended by then, or not; nobody knows better. */
const RETRY_BUSY_MS = 1000

type RateLimits = Pick<ServerLimits['perKey'], 'concurrent' | 'requestsPerMinute'>

interface Account {
  running: number
  /** Requests that may begin at once; grows with time, up to those of a minute. */
  allowance: number
  /** When `allowance` was right, in milliseconds of the clock. */
  asOf: number
}

export class Rates {
  readonly #limits: RateLimits
  readonly #now: () => number
  readonly #accounts = new Map<string, Account>()

  /** @param now a clock in milliseconds that never goes back. */
  constructor(limits: RateLimits, now: () => number = () => performance.now()) {
    this.#limits = limits
    this.#now = now
  }

  /** Principals that are remembered: those with something running, or with less than a whole minute's allowance. */
  get size(): number {
    return this.#accounts.size
  }

  /**
   * Begins a request; what it returns ends it, and does nothing when called again.
   *
   * @throws {GorgonError} ERR_RATE_LIMIT, which costs no allowance.
   */
  enter({ id }: Principal): () => void {
    this.#forget()
    const account = this.#accountOf(id)
    const { concurrent, requestsPerMinute } = this.#limits
    if (account.running >= concurrent) {
      throw new GorgonError(
        'ERR_RATE_LIMIT',
        `This key has as many requests running as it may have: ${concurrent} (limits.perKey.concurrent). Wait for one to end.`,
        { retryAfterMs: RETRY_BUSY_MS, running: account.running, concurrent },
      )
    }
    if (requestsPerMinute > 0) {
      if (account.allowance < 1) {
        const retryAfterMs = Math.ceil(((1 - account.allowance) * MINUTE_MS) / requestsPerMinute)
        throw new GorgonError(
          'ERR_RATE_LIMIT',
          `This key has made more than ${requestsPerMinute} requests in a minute (limits.perKey.requestsPerMinute). Wait ${Math.ceil(retryAfterMs / 1000)} s.`,
          { retryAfterMs, requestsPerMinute },
        )
      }
      account.allowance--
    }
    account.running++
    let hasEnded = false
    return () => {
      if (hasEnded) return
      hasEnded = true
      account.running--
      if (this.#isForgettable(account)) this.#accounts.delete(id)
    }
  }

  #accountOf(id: string): Account {
    const { requestsPerMinute } = this.#limits
    const asOf = this.#now()
    const account = this.#accounts.get(id) ?? { running: 0, allowance: requestsPerMinute, asOf }
    account.allowance = this.#allowanceOf(account, asOf)
    account.asOf = asOf
    this.#touch(id, account)
    return account
  }

  #allowanceOf({ allowance, asOf }: Account, now: number): number {
    const { requestsPerMinute } = this.#limits
    return Math.min(requestsPerMinute, allowance + ((now - asOf) * requestsPerMinute) / MINUTE_MS)
  }

  #isForgettable(account: Account): boolean {
    return account.running === 0 && this.#allowanceOf(account, this.#now()) >= this.#limits.requestsPerMinute
  }

  /** Two looks at whoever came longest ago for each that comes: so those who left are forgotten faster than others can come. */
  #forget(): void {
    for (let looks = 0; looks < 2; looks++) {
      const [oldest] = this.#accounts
      if (!oldest) return
      const [id, account] = oldest
      if (this.#isForgettable(account)) this.#accounts.delete(id)
      else if (account.running > 0) this.#touch(id, account)
    }
  }

  /** Makes it the one that came last. */
  #touch(id: string, account: Account): void {
    this.#accounts.delete(id)
    this.#accounts.set(id, account)
  }
}
