// Responses: made, kept, gone on from.
import { GorgonError } from '../../errors.js'
import type { Engine, Message, Result } from '../../index.js'
import type { Principal } from '../auth.js'
import type { Intake, ServedSession, Work } from '../intake.js'
import type { Endpoint } from '../observer.js'
import { fitting } from './fitting.js'
import { newId, secondsNow } from './reports.js'
import { newResponse, type ResponseObject } from './response-object.js'
import { closeQuietly, type KeptResponse, ResponseStore } from './response-store.js'
import { messagesOf, type ResponseBody, refuseTextConfig, responseOptionsOf } from './responses-input.js'
import { RunningResponse } from './running-response.js'

export interface ResponseRequest {
  readonly principal: Principal
  readonly endpoint: Endpoint
  readonly body: ResponseBody
  /** Ends it when whoever listens is gone. */
  readonly signal: AbortSignal
  /** Finds what only this connection knows. */
  readonly local?: { find(id: string): KeptResponse | null; keep(kept: KeptResponse): void }
}

/** What a response goes on from, and with what. */
interface Context {
  readonly previous: KeptResponse | null
  readonly added: readonly Message[]
  /** Of all turns, without instructions. */
  readonly messages: readonly Message[]
  readonly instructions: string | null
}

/** A request that counts against its principal's limits. */
interface Entered {
  readonly id: string
  readonly engine: Engine
  readonly leave: () => void
}

export class Responses {
  readonly store = new ResponseStore()
  readonly #intake: Intake
  readonly #running = new Map<string, RunningResponse>()

  constructor(intake: Intake) {
    this.#intake = intake
    intake.onOutOfMemory(() => this.store.releaseAll())
  }

  /**
   * Begins a response. What the engine cannot serve is told by its events.
   *
   * @throws {GorgonError} ERR_UNSUPPORTED, ERR_OPTION; ERR_RESPONSE_NOT_FOUND when what it goes on from is gone; as `intake.start`.
   */
  async begin(request: ResponseRequest): Promise<RunningResponse> {
    const { body, principal, endpoint } = request
    const whole = this.#contextOf(request)
    const served = this.#intake.engineOf(body.model ?? whole.previous?.response.model)
    // Fitting takes time as well: a key's limits are asked before it.
    const leave = this.#intake.enter(principal, endpoint)
    try {
      const context = body.truncation === 'auto' ? await fittingContext(whole, served.engine, body) : whole
      return this.#start(request, context, { ...served, leave })
    } catch (error) {
      leave()
      throw error
    }
  }

  /**
   * Keeps input for a later response, and answers nothing now.
   *
   * @throws {GorgonError} as `begin`.
   */
  prepare(request: ResponseRequest): ResponseObject {
    const { body, principal } = request
    const context = this.#contextOf(request)
    const { id: model } = this.#intake.engineOf(body.model ?? context.previous?.response.model)
    this.#intake.enter(principal)()
    const createdAt = secondsNow()
    const response: ResponseObject = {
      ...newResponse(body, { id: newId('resp'), createdAt, model }),
      status: 'completed',
      completed_at: createdAt,
    }
    this.#keep(request, { owner: principal.id, response, input: context.added, messages: context.messages })
    return response
  }

  /** @throws {GorgonError} ERR_RESPONSE_NOT_FOUND. */
  get(id: string, principal: Principal): ResponseObject {
    return this.#runningOf(id, principal)?.response ?? this.store.get(id, principal.id).response
  }

  /** @throws {GorgonError} ERR_RESPONSE_NOT_FOUND. */
  inputOf(id: string, principal: Principal): readonly Message[] {
    return this.store.get(id, principal.id).input
  }

  /** @throws {GorgonError} ERR_RESPONSE_NOT_FOUND; ERR_BUSY while it is being made. */
  delete(id: string, principal: Principal): void {
    if (this.#runningOf(id, principal)) throw stillRunning(id)
    this.store.delete(id, principal.id)
  }

  /**
   * Ends it within a step; of one that has ended nothing changes.
   *
   * @throws {GorgonError} ERR_RESPONSE_NOT_FOUND.
   */
  async cancel(id: string, principal: Principal): Promise<ResponseObject> {
    const running = this.#runningOf(id, principal)
    return running ? await running.cancel() : this.store.get(id, principal.id).response
  }

  /** What a connection alone knew, and nobody will ask for again. */
  forget(kept: KeptResponse): void {
    if (!this.store.has(kept)) this.store.release(kept)
  }

  /** Forgets what was kept; to be called when nothing runs any more. */
  close(): void {
    this.store.close()
  }

  #runningOf(id: string, principal: Principal): RunningResponse | null {
    const running = this.#running.get(id) ?? null
    return running?.owner === principal.id ? running : null
  }

  #contextOf(request: ResponseRequest): Context {
    const { body } = request
    refuseTextConfig(body)
    const previous = body.previous_response_id ? this.#previousOf(body.previous_response_id, request) : null
    const added = messagesOf(body.input)
    const messages = [...(previous?.messages ?? []), ...added]
    const instructions = body.instructions ?? null
    if (messages.length === 0 && instructions === null) {
      throw new GorgonError('ERR_OPTION', 'input is missing: give a string, or an array of items.', { path: 'input' })
    }
    return { previous, added, messages, instructions }
  }

  #previousOf(id: string, { principal, local }: ResponseRequest): KeptResponse {
    const kept = local?.find(id) ?? this.store.find(id, principal.id)
    if (kept) return kept
    if (this.#runningOf(id, principal)) throw stillRunning(id)
    throw new GorgonError(
      'ERR_RESPONSE_NOT_FOUND',
      `Previous response with id '${id.slice(0, 100)}' not found. Send the whole context as input, without previous_response_id.`,
      { status: 400, path: 'previous_response_id', id },
    )
  }

  #start(request: ResponseRequest, context: Context, { id: model, engine, leave }: Entered): RunningResponse {
    const { body, principal } = request
    const isKept = (body.store ?? true) || request.local !== undefined
    const { session, continues } = isKept
      ? this.#sessionFor(context, principal, model)
      : { session: undefined, continues: false }

    let workedOn!: () => void
    const isWorkedOn = new Promise<void>((resolve) => {
      workedOn = resolve
    })
    let work: Work
    try {
      work = this.#intake.start({
        principal,
        endpoint: request.endpoint,
        model,
        input: continues ? context.added : withInstructions(context),
        options: {
          ...responseOptionsOf(body, engine.info),
          signal: request.signal,
          onPrefill: () => workedOn(),
        },
        session,
        leave,
      })
    } catch (error) {
      if (session) this.#giveBack(context, session, continues)
      throw error
    }
    const running = new RunningResponse({
      response: newResponse(body, { id: newId('resp'), createdAt: secondsNow(), model }),
      owner: principal.id,
      work,
      isWorkedOn,
      gone: request.signal,
      bytesOf: (id) => engine.tokenBytes(id),
      settle: (response, result) => this.#settle(request, context, { response, result, session, continues }),
    })
    this.#running.set(running.id, running)
    return running
  }

  /**
   * The session that a turn goes on in: the previous one's, if nothing else went on from there and it says the same; or a new one. Where
   * there is no room for that, none: the next turn begins anew.
   */
  #sessionFor({ previous, added, instructions }: Context, principal: Principal, model: string) {
    const isSame = previous?.response.model === model && previous.response.instructions === instructions
    const taken = isSame && added.length > 0 ? this.store.take(previous) : null
    if (taken) return { session: taken, continues: true }
    const session = this.#intake.hasRoomForSession(principal) ? this.#intake.openSession(principal, model) : undefined
    return { session, continues: false }
  }

  /** After a turn that left nothing: the session is as the previous response left it, or empty. */
  #giveBack({ previous }: Context, session: ServedSession, continues: boolean): void {
    if (continues && previous) this.store.hold(previous, session)
    else closeQuietly(session)
  }

  /** A response has ended. */
  #settle(
    request: ResponseRequest,
    context: Context,
    {
      response,
      result,
      session,
      continues,
    }: {
      readonly response: ResponseObject
      readonly result: Result | null
      readonly session: ServedSession | undefined
      readonly continues: boolean
    },
  ): void {
    this.#running.delete(response.id)
    // A turn that failed, or was cut short in prefill, is not in its session.
    const isWhole = result !== null && result.kv.promptTokens > 0
    if (!isWhole) {
      if (session) this.#giveBack(context, session, continues)
      return
    }
    const kept: KeptResponse = {
      owner: request.principal.id,
      response,
      input: context.added,
      messages: [...context.messages, { role: 'assistant', content: result.text }],
    }
    this.#keep(request, kept)
    if (session) this.store.hold(kept, session)
  }

  #keep({ body, local }: ResponseRequest, kept: KeptResponse): void {
    if (body.store ?? true) this.store.keep(kept)
    local?.keep(kept)
  }
}

/** Without its oldest messages, if it is too long; then nothing was kept that it could go on from. */
async function fittingContext(context: Context, engine: Engine, { max_output_tokens }: ResponseBody): Promise<Context> {
  const messages = await fitting(context.messages, {
    first: instructionsOf(context),
    maxTokens: max_output_tokens ?? null,
    engine,
  })
  return messages === context.messages ? context : { ...context, messages, previous: null }
}

function instructionsOf({ instructions }: Context): readonly Message[] {
  return instructions === null ? [] : [{ role: 'system', content: instructions }]
}

function withInstructions(context: Context): readonly Message[] {
  return [...instructionsOf(context), ...context.messages]
}

function stillRunning(id: string): GorgonError {
  return new GorgonError(
    'ERR_BUSY',
    `Response "${id.slice(0, 100)}" is still being made. Wait for its end, or cancel it.`,
    {
      id,
    },
  )
}
