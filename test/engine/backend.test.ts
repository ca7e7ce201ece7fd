// The choice of backend and instruction set, asked for, forced, or made.
import { describe, expect, it } from 'vitest'
import { chooseBackend } from '../../src/backend.js'
import type { BackendInfo } from '../../src/native.js'

const CPU: BackendInfo = {
  name: 'cpu',
  usable: true,
  detail: 'x86-64',
  isas: [
    { name: 'avx512', usable: false },
    { name: 'avx2', usable: true },
    { name: 'portable', usable: true },
  ],
  devices: [],
}
const H200 = { name: 'H200', memoryBytes: 150e9, computeCapability: '9.0', multiprocessors: 132 }
const A10 = { name: 'A10', memoryBytes: 24e9, computeCapability: '8.6', multiprocessors: 72 }
const CUDA: BackendInfo = { name: 'cuda', usable: true, detail: 'H200, A10', isas: [], devices: [H200, A10] }
const NO_GPU: BackendInfo = { ...CUDA, usable: false, detail: 'no device was found', devices: [] }
const AUTO = { backend: 'auto', isa: 'auto' }

describe('auto', () => {
  it('is CUDA where it can be used', () => {
    expect(chooseBackend(AUTO, {}, [CPU, CUDA])).toMatchObject({ backend: 'cuda', isa: 'auto' })
  })

  it('is the CPU otherwise, and says why', () => {
    expect(chooseBackend(AUTO, {}, [CPU, NO_GPU])).toEqual({
      backend: 'cpu',
      isa: 'auto',
      device: null,
      reason: 'cuda cannot be used: no device was found',
    })
    expect(chooseBackend(AUTO, {}, [CPU]).reason).toBe('cuda was not built')
  })

  it('is an error where there is none', () => {
    expect(() => chooseBackend(AUTO, {}, [NO_GPU])).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }))
  })
})

describe('the environment', () => {
  it('stands in for auto, and gives way to an option', () => {
    const env = { GORGON_BACKEND: 'cpu', GORGON_CPU: 'portable' }
    expect(chooseBackend(AUTO, env, [CPU, CUDA])).toEqual({
      backend: 'cpu',
      isa: 'portable',
      device: null,
      reason: 'GORGON_BACKEND asked for it',
    })
    expect(chooseBackend({ backend: 'cuda', isa: 'auto' }, env, [CPU, CUDA])).toMatchObject({
      backend: 'cuda',
      isa: 'auto',
    })
    expect(chooseBackend({ backend: 'cpu', isa: 'avx2' }, env, [CPU, CUDA])).toMatchObject({ isa: 'avx2' })
  })

  it('has an instruction set for each backend', () => {
    const env = { GORGON_CPU: 'portable', GORGON_CUDA: 'sm_80' }
    const isas = ['sm_90a', 'sm_80'].map((name) => ({ name, usable: true }))
    expect(chooseBackend(AUTO, env, [CPU, { ...CUDA, isas }])).toMatchObject({ backend: 'cuda', isa: 'sm_80' })
    expect(chooseBackend(AUTO, env, [CPU, NO_GPU])).toMatchObject({ backend: 'cpu', isa: 'portable' })
  })

  it('says nothing when empty', () => {
    expect(chooseBackend(AUTO, { GORGON_BACKEND: '', GORGON_CPU: '' }, [CPU])).toMatchObject({ isa: 'auto' })
  })
})

describe('the device', () => {
  const deviceOf = (wanted: object, env: Record<string, string> = {}) =>
    chooseBackend({ ...AUTO, ...wanted }, env, [CPU, CUDA]).device

  it('is the first, or the one that was asked for', () => {
    expect(deviceOf({})).toEqual({ ...H200, index: 0, budgetBytes: 0 })
    expect(deviceOf({ device: 1 })).toEqual({ ...A10, index: 1, budgetBytes: 0 })
    expect(deviceOf({}, { GORGON_DEVICE: '1' })).toMatchObject({ index: 1 })
    expect(deviceOf({ device: 0 }, { GORGON_DEVICE: '1' })).toMatchObject({ index: 0 })
    expect(deviceOf({}, { GORGON_DEVICE: '' })).toMatchObject({ index: 0 })
  })

  it('of a backend that has none is an error, unless the environment alone names one', () => {
    const cpu = (wanted: object, env: Record<string, string> = {}, known: readonly BackendInfo[] = [CPU, NO_GPU]) =>
      chooseBackend({ ...AUTO, ...wanted }, env, known)
    expect(cpu({}, { GORGON_DEVICE: 'x' }).device).toBeNull()
    expect(() => cpu({ device: 0 })).toThrow(
      expect.objectContaining({
        code: 'ERR_OPTION',
        message:
          'device is given, but the backend is "cpu" (cuda cannot be used: no device was found), which has no devices. Leave it out, or use backend "cuda".',
      }),
    )
    expect(() => cpu({ deviceMemory: 1e9 })).toThrow(/^deviceMemory is given, but the backend is "cpu"/)
    expect(() => cpu({ device: 0 }, { GORGON_BACKEND: 'cpu' }, [CPU, CUDA])).toThrow(
      /^device is given, but the backend is "cpu" \(GORGON_BACKEND asked for it\)/,
    )
  })

  it('may have a budget, up to the memory it has', () => {
    expect(deviceOf({ device: 1, deviceMemory: 24e9 })).toMatchObject({ budgetBytes: 24e9 })
    expect(() => deviceOf({ device: 1, deviceMemory: 24e9 + 1 })).toThrow(
      expect.objectContaining({
        code: 'ERR_OPTION',
        message: 'deviceMemory is 24000000001 bytes, but device 1 (A10) has 24000000000. Use at most that many.',
      }),
    )
  })

  it('that is not there is an error that lists those that are', () => {
    expect(() => deviceOf({ device: 2 })).toThrow(
      expect.objectContaining({
        code: 'ERR_DEVICE',
        message: 'Device 2 (device) does not exist. There is 0 (H200), 1 (A10).',
      }),
    )
    expect(() => deviceOf({}, { GORGON_DEVICE: '7' })).toThrow(/Device 7 \(GORGON_DEVICE\) does not exist/)
    expect(() => deviceOf({}, { GORGON_DEVICE: 'first' })).toThrow(
      expect.objectContaining({
        code: 'ERR_OPTION',
        message: 'GORGON_DEVICE is "first". Use the number of a device: 0 (H200), 1 (A10).',
      }),
    )
  })
})

describe('a name', () => {
  const thrown = (wanted: typeof AUTO, env: Record<string, string> = {}) => {
    try {
      chooseBackend(wanted, env, [CPU, NO_GPU])
    } catch (error) {
      return error as { code: string; message: string }
    }
    throw new Error('nothing was thrown')
  }

  it('that is not known lists those that exist', () => {
    const error = thrown(AUTO, { GORGON_BACKEND: 'cdua' })
    expect(error.code).toBe('ERR_OPTION')
    expect(error.message).toBe(
      'Backend "cdua" (GORGON_BACKEND) is not known. Available: cpu. cuda cannot be used: no device was found.',
    )
    const isa = thrown(AUTO, { GORGON_CPU: 'avx1024' })
    expect(isa.code).toBe('ERR_OPTION')
    expect(isa.message).toContain('Available: avx2, portable. avx512 cannot be used on this machine.')
  })

  it('that cannot be used here says why', () => {
    expect(thrown({ backend: 'cuda', isa: 'auto' })).toMatchObject({ code: 'ERR_DEVICE' })
    expect(thrown({ backend: 'cpu', isa: 'avx512' })).toMatchObject({ code: 'ERR_DEVICE' })
  })
})
