// A GPU as users meet it: in what doctor prints, in what an engine says of itself, and in what it refuses.
import { expect, it } from 'vitest'
import { backends, loadEngine } from '../../src/index.js'
import { describeOnGpu } from '../support/backend.js'
import { failure } from '../support/errors.js'
import { gorgon } from './command.js'

describeOnGpu('a device', () => {
  const devices = () => backends().find(({ name }) => name === 'cuda')!.devices

  it('is listed by doctor', async () => {
    const { stdout } = await gorgon(['doctor'])
    expect(stdout).toMatch(/^ok +backend cuda /m)
    for (const [number, { name, computeCapability }] of devices().entries()) {
      expect(stdout).toContain(`device ${number}: ${name}, `)
      expect(stdout).toContain(`compute capability ${computeCapability}`)
    }
  })

  it('is what an engine says it runs on', async () => {
    await using engine = await loadEngine({ model: 'demo', backend: 'cuda', deviceMemory: 2 ** 31 })
    const { name, memoryBytes } = devices()[engine.info.device!.index]!
    expect(engine.info).toMatchObject({ backend: 'cuda', device: { name, memoryBytes, budgetBytes: 2 ** 31 } })
    expect((await engine.generate('const answer =', { maxTokens: 8, ignoreEos: true })).tokens).toHaveLength(8)
  })

  it('that does not exist, or has less memory, is refused', async () => {
    const { length } = devices()
    const load = (options: object) => () => loadEngine({ model: 'demo', backend: 'cuda', ...options })
    await failure(load({ device: length }), 'ERR_DEVICE', new RegExp(`Device ${length} \\(device\\) does not exist`))
    await failure(load({ deviceMemory: 2 ** 49 }), 'ERR_OPTION', /deviceMemory is/)
    await failure(load({ deviceMemory: 2 ** 20 }), 'ERR_OUT_OF_MEMORY')
  })
})
