// All arms at once give the answers the engine gives one by one.
import { describe, expect, it } from 'vitest'
import { ARM_KINDS, armsOf } from '../../../bench/quality/arms.js'
import { openCopy } from '../../../bench/quality/model-copy.js'
import { answerOf, openSharedPrefill, upTo } from '../../../bench/quality/shared-prefill.js'
import { loadEngine } from '../../../src/index.js'
import { native } from '../../../src/native.js'

describe('a copy of the model', () => {
  it.each(['full', 'int8'] as const)("holds %s weights in the engine's form", async (weights) => {
    await using engine = await loadEngine({ model: 'demo', weights })
    const copy = await openCopy(engine.info)
    try {
      const { dtype, isa, weights: form } = native().modelInfo(copy.handle)
      expect({ dtype, isa, form }).toEqual({ dtype: engine.info.dtype, isa: engine.info.isa, form: weights })
    } finally {
      await copy.close()
    }
  })
})

describe('answers', () => {
  it("of a shared prefill are the engine's, text for text, whatever ends them", async () => {
    const engine = await loadEngine('demo')
    const shared = await openSharedPrefill(engine)
    try {
      const lines = Array.from(
        { length: 60 },
        (_, i) => `export const item${i} = pick(${(i * 7919) % 1000}, 'name${i % 37}')`,
      )
      const prompt = (await engine.tokenize(lines.join('\n'))).slice(0, 400)
      const arms = armsOf({ arms: [...ARM_KINDS], budgets: [64, 300, 500], compare: [128], window: 16, poolSize: 7 })
      for (const stop of [[], ['\n'], ['(', '.']]) {
        const question = { maxTokens: 16, stop }
        const answers = shared.answers(arms, prompt, question)
        for (const [i, arm] of arms.entries()) {
          expect(answers[i], `${arm.name}, up to ${JSON.stringify(stop)}`).toBe(
            await answerOf(engine, arm, prompt, question),
          )
        }
        for (const end of stop) expect(answers.join('')).not.toContain(end)
      }
    } finally {
      await shared.close()
      await engine.close()
    }
  })

  it('through the engine end early when nothing that follows matters', async () => {
    const engine = await loadEngine('demo')
    try {
      const prompt = await engine.tokenize('export function add(')
      const [full] = armsOf({ arms: ['full'], budgets: [], compare: [], window: 16, poolSize: 7 })
      const whole = await answerOf(engine, full!, prompt, { maxTokens: 40 })
      const early = await answerOf(engine, full!, prompt, { maxTokens: 40, isDone: (text) => text.length >= 4 })
      expect(whole.startsWith(early)).toBe(true)
      expect(early.length).toBeLessThan(whole.length)
      expect(early.length).toBeGreaterThanOrEqual(4)
    } finally {
      await engine.close()
    }
  })

  it('end before the first of their last characters', () => {
    expect(upTo('2416>, line', ['>', ','])).toBe('2416')
    expect(upTo('a, b> c', ['>', ','])).toBe('a')
    expect(upTo('2416', ['>'])).toBe('2416')
    expect(upTo('2416', [])).toBe('2416')
  })
})
