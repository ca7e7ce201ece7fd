// What is open together is closed together, in the right order, whatever fails.
import { expect, test } from 'vitest'
import { Closing } from '../../../heads/train/closing.js'

test('closes the last first, and each once', async () => {
  const closed: string[] = []
  const opened = new Closing()
  for (const name of ['model', 'trainer', 'log']) opened.add(async () => void closed.push(name))
  await opened.close()
  await opened.close()
  expect(closed).toEqual(['log', 'trainer', 'model'])
})

test('closes the others when some fail, and throws the first error', async () => {
  const closed: string[] = []
  const opened = new Closing()
  opened.add(async () => void closed.push('model'))
  opened.add(() => Promise.reject(new Error('second')))
  opened.add(() => Promise.reject(new Error('first')))
  await expect(opened.close()).rejects.toThrow('first')
  expect(closed).toEqual(['model'])
})

test('after an error, says nothing of its own', async () => {
  const opened = new Closing()
  opened.add(() => Promise.reject(new Error('closing')))
  await expect(opened.closeAfterError()).resolves.toBeUndefined()
})
