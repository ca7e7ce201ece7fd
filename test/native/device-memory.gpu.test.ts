// Memory of a GPU: what does not fit is refused as an ordinary error, what was there goes on, and all of it comes back.
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type ModelHandle, type ModelSpec, native } from '../../src/native.js'
import { describeOnGpu } from '../support/backend.js'
import { temporaryFolder } from '../support/folder.js'
import { plainTokens, prefillTurn, readySession, refused, someTokens, specOf } from '../support/native-calls.js'
import { decode } from '../support/native-session.js'
import { writeTinyModel } from '../support/tiny-model.js'

const addon = native()
const dir = temporaryFolder()
/** Far more tokens than the others have, and their rows in the cache. */
const LONG = 4000

describeOnGpu('memory of a device', () => {
  let spec: ModelSpec
  const opened: ModelHandle[] = []
  const open = async (others: Partial<ModelSpec> = {}) => {
    const model = await addon.openModel({ ...spec, ...others, progress: new Int32Array(new SharedArrayBuffer(8)) })
    opened.push(model)
    return model
  }
  beforeAll(async () => {
    await writeTinyModel(join(dir, 'tiny'), { seed: 5, maxPositions: 8192 })
    spec = await specOf(join(dir, 'tiny'))
  })
  afterAll(() => Promise.all(opened.map((model) => addon.close(model))))

  it('weights that do not fit are refused, and the next model is not', async () => {
    const error = await refused(() => open({ memoryBudget: 2 ** 16 }), 'ERR_OUT_OF_MEMORY')
    expect(error.message).toMatch(/deviceMemory|memory/)
    const model = await open()
    const { session, drafts } = await readySession(model)
    expect(await plainTokens(session, drafts.root, 5)).toHaveLength(5)
    await addon.close(session)
  })

  it('a prompt that does not fit is refused, and the sessions beside it go on', async () => {
    const free = await open()
    const { session: alone, drafts: first } = await readySession(free)
    const expected = await plainTokens(alone, first.root, 20)
    const { memoryUsed, kvBytesPerToken } = addon.modelInfo(free)
    await addon.close(alone)

    // Half of what the long prompt's rows alone take.
    const tight = await open({ memoryBudget: memoryUsed + (LONG * kvBytesPerToken) / 2 })
    const { session, drafts } = await readySession(tight)
    const tokens = await plainTokens(session, drafts.root, 10)
    const large = addon.openSession(tight)
    await refused(() => prefillTurn(large, { tokens: someTokens(LONG) }), 'ERR_OUT_OF_MEMORY')
    await addon.close(large)
    tokens.push(...(await plainTokens(session, tokens.at(-1)!, 11)).slice(1))
    expect(tokens).toEqual(expected)
    await addon.close(session)
  })

  it('what a session held comes back when it is closed', async () => {
    const model = await open()
    const used: number[] = []
    for (let round = 0; round < 4; round++) {
      const { session, drafts } = await readySession(model, { tokens: someTokens(LONG) })
      await plainTokens(session, drafts.root, 5)
      const during = addon.modelInfo(model).memoryUsed
      await addon.close(session)
      used.push(addon.modelInfo(model).memoryUsed)
      expect(during - used.at(-1)!).toBeGreaterThanOrEqual(LONG * addon.modelInfo(model).kvBytesPerToken)
    }
    // The first round also reserved what is reused from call to call.
    expect(used.slice(2)).toEqual([used[1], used[1]])
  })

  it('models share a device without noticing each other', async () => {
    const [first, second] = await Promise.all([open(), open()])
    const prompt = [...someTokens(50)]
    const { tokens } = await decode(first, prompt, 30)
    const together = await Promise.all([first, second, first, second].map((model) => decode(model, prompt, 30)))
    for (const each of together) expect(each.tokens).toEqual(tokens)
  })
})
