// The record of where a measurement was made.
import { expect, test } from 'vitest'
import { MachineRecord, machineRecord } from '../../bench/support/machine.js'

const used = { isa: 'avx512', threads: 2 }

test('says what the engine used, and passes its own check', () => {
  const record = machineRecord(used)
  expect(record).toMatchObject(used)
  expect(MachineRecord.parse(record)).toEqual(record)
  expect(record.cores).toBeGreaterThanOrEqual(1)
  expect(Number.isNaN(Date.parse(record.date))).toBe(false)
})

test('GORGON_COMMIT stands in for git', () => {
  expect(machineRecord(used, { GORGON_COMMIT: 'abc1234' })).toMatchObject({ commit: 'abc1234', dirty: null })
})
