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
}
const CUDA: BackendInfo = { name: 'cuda', usable: true, detail: 'H200', isas: [] }
const NO_GPU: BackendInfo = { ...CUDA, usable: false, detail: 'no device was found' }
const AUTO = { backend: 'auto', isa: 'auto' }

describe('auto', () => {
  it('is CUDA where it can be used', () => {
    expect(chooseBackend(AUTO, {}, [CPU, CUDA])).toMatchObject({ backend: 'cuda', isa: 'auto' })
  })

  it('is the CPU otherwise, and says why', () => {
    expect(chooseBackend(AUTO, {}, [CPU, NO_GPU])).toEqual({
      backend: 'cpu',
      isa: 'auto',
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
      reason: 'GORGON_BACKEND asked for it',
    })
    expect(chooseBackend({ backend: 'cuda', isa: 'auto' }, env, [CPU, CUDA])).toMatchObject({
      backend: 'cuda',
      isa: 'auto',
    })
    expect(chooseBackend({ backend: 'cpu', isa: 'avx2' }, env, [CPU, CUDA])).toMatchObject({ isa: 'avx2' })
  })

  it('says nothing when empty', () => {
    expect(chooseBackend(AUTO, { GORGON_BACKEND: '', GORGON_CPU: '' }, [CPU])).toMatchObject({ isa: 'auto' })
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
