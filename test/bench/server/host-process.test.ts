// A host: a process with an engine and a server, asked over its channel.
import { expect, test } from 'vitest'
import { HostProcess } from '../../../bench/server/host-process.js'

const OPTIONS = { model: 'demo', threads: 1, limits: { maxSequences: 4 } }

test('a host serves, runs a load on the library itself, says what it holds, and is gone when it is left', async () => {
  await using host = await HostProcess.start(OPTIONS)
  expect((await host.ask('info')).hasTokenizer).toBe(true)

  const prompts = await host.ask('prompts', { count: 3, lengths: [8, 12] })
  expect(prompts.map((prompt) => prompt.length)).toEqual([8, 12, 8])

  const request = { prompts, tokens: 5, speculation: 'off', temperature: 0 } as const
  await host.ask('watch')
  const { answers } = await host.ask('library', { plan: { loop: 'closed', clients: 3, requestsEach: 2 }, request })
  const made = await host.ask('made')
  expect(made.map(({ prompt }) => prompt).sort()).toEqual([...prompts, ...prompts].sort())
  expect(answers.map(({ question }) => question).sort()).toEqual([0, 1, 2, 3, 4, 5])
  for (const { question, tokens, ids, arrivals } of answers) {
    expect(tokens).toBe(5)
    // Plain decoding: a token in each chunk.
    expect(arrivals).toHaveLength(5)
    expect(ids).toEqual(answers.find((other) => other.question % 3 === question % 3)!.ids)
  }

  const marks = await host.ask('marks', { afterGc: true })
  expect(marks.engine).toMatchObject({ running: 0, queued: 0, totals: { finished: 6, failed: 0 } })
  expect(marks.busyMs).toBeGreaterThan(0)

  const first = await host.ask('serve', {})
  expect((await fetch(`${first}/health/live`)).status).toBe(200)
  const second = await host.ask('serve', { messageBytes: 2048 })
  await expect(fetch(first)).rejects.toThrow()
  expect((await fetch(`${second}/health/live`)).status).toBe(200)
  await host[Symbol.asyncDispose]()
  await expect(fetch(second)).rejects.toThrow()
})

test('what goes wrong in a host is told to whoever asked', async () => {
  await expect(HostProcess.start({ ...OPTIONS, model: 'no-such-folder' })).rejects.toThrow('no-such-folder')
})
