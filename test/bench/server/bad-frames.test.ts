// Frames that no client should send.
import { expect, test } from 'vitest'
import { type BadFrame, BadFrames } from '../../../bench/server/bad-frames.js'
import { ClientFrame } from '../../../src/server/index.js'

const take = (seed: string, count: number): BadFrame[] => {
  const frames = new BadFrames(seed)
  return Array.from({ length: count }, () => frames.next())
}

function isRight(text: string): boolean {
  try {
    return ClientFrame.safeParse(JSON.parse(text)).success
  } catch {
    return false
  }
}

test('are the same for the same seed, and others for another', () => {
  expect(take('one', 500)).toEqual(take('one', 500))
  expect(take('one', 500)).not.toEqual(take('two', 500))
})

test('are text, bytes and fragments; most are wrong, some are right', () => {
  const frames = take('kinds', 2000)
  const texts = frames.filter((frame) => typeof frame === 'string')
  const bytes = frames.filter((frame) => Buffer.isBuffer(frame))
  expect(bytes.length).toBeGreaterThan(100)
  expect(frames.length - texts.length - bytes.length).toBeGreaterThan(100)
  const right = texts.filter(isRight).length
  expect(right).toBeGreaterThan(0)
  expect(right).toBeLessThan(0.2 * texts.length)
})

test('whatever is in them, objects stay what they are', () => {
  for (const frame of take('prototypes', 2000)) if (typeof frame === 'string') isRight(frame)
  expect('polluted' in {}).toBe(false)
})
