// Options of a generation to the sampling spec that native code follows.
import { randomBytes } from 'node:crypto'
import { GorgonError } from '../errors.js'
import type { SamplingSpec } from '../native.js'
import type { GenerateOptions } from '../options.js'

/** Greedy, and nothing else: what the defaults of a request come to. */
export const GREEDY_SAMPLING: SamplingSpec = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  biasIds: new Int32Array(0),
  biasValues: new Float32Array(0),
  seed: 0n,
  minTokens: 0,
  suppressedIds: new Int32Array(0),
  logprobs: -1,
}

/** A seed for a request that gave none; below 2^53, so that it can be read back from JSON and given as a number. */
export function randomSeed(): bigint {
  return BigInt.asUintN(53, randomBytes(8).readBigUInt64LE())
}

/**
 * How one token is chosen, for all phases of a generation.
 *
 * Ids that would end the generation are suppressed until `minTokens` exist: the model's, unless `ignoreEos` makes them ordinary tokens,
 * and the user's.
 *
 * @param seed of the request, or `randomSeed()`; greedy decoding draws nothing and carries 0, whatever is given.
 * @param eosIds the model's end-of-sequence ids.
 * @param vocab tokens of the model; ids must be below.
 * @throws {GorgonError} ERR_TOKEN_RANGE when `logitBias` or `stopTokenIds` names a token the model does not have.
 */
export function samplingSpecOf(
  options: GenerateOptions,
  { seed, eosIds, vocab }: { readonly seed: bigint; readonly eosIds: readonly number[]; readonly vocab: number },
): SamplingSpec {
  const biases = Object.entries(options.logitBias).map(([id, value]) => ({ id: Number(id), value }))
  const inVocabulary = (option: string, ids: readonly number[]): void => {
    const bad = ids.find((id) => id >= vocab)
    if (bad === undefined) return
    throw new GorgonError(
      'ERR_TOKEN_RANGE',
      `${option} names token ${bad}, but the model has ${vocab} tokens. Use ids from 0 to ${vocab - 1}.`,
      { option, id: bad, vocab },
    )
  }
  inVocabulary(
    'logitBias',
    biases.map(({ id }) => id),
  )
  inVocabulary('stopTokenIds', options.stopTokenIds)

  const ending = new Set([...(options.ignoreEos ? [] : eosIds), ...options.stopTokenIds])
  return {
    temperature: options.temperature,
    topK: options.topK,
    topP: options.topP,
    minP: options.minP,
    repetitionPenalty: options.repetitionPenalty,
    frequencyPenalty: options.frequencyPenalty,
    presencePenalty: options.presencePenalty,
    biasIds: Int32Array.from(biases, ({ id }) => id),
    biasValues: Float32Array.from(biases, ({ value }) => value),
    seed: options.temperature === 0 ? 0n : seed,
    minTokens: options.minTokens,
    suppressedIds: options.minTokens === 0 ? new Int32Array(0) : Int32Array.from(ending),
    logprobs: options.logprobs === false ? -1 : options.logprobs,
  }
}
