// The record of a GPU, from what its driver's tool prints.
import { expect, test } from 'vitest'
import { gpuRecord } from '../../src/bench/gpu.js'

test('is read from the first GPU', () => {
  const ask = (...args: string[]): string =>
    args.length > 0
      ? 'NVIDIA H200, 580.159.03, 143771, 1980\n'
      : '| Driver Version: 580.159.03   CUDA Version: 13.0 |\n'
  expect(gpuRecord(ask)).toEqual({
    name: 'NVIDIA H200',
    driver: '580.159.03',
    cuda: '13.0',
    memoryBytes: 143771 * 2 ** 20,
    clockMHz: 1980,
  })
})

test('leaves out what nobody says', () => {
  const nothing = { driver: null, cuda: null, memoryBytes: null, clockMHz: null }
  expect(gpuRecord(() => '')).toEqual({ name: 'unknown GPU', ...nothing })
  expect(gpuRecord((...args) => (args.length > 0 ? 'GPU, [N/A], [N/A], [N/A]' : ''))).toEqual({
    ...nothing,
    name: 'GPU',
  })
})
