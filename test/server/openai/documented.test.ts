// docs/openai.md says of every field what becomes of it.
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { ChatBody } from '../../../src/server/openai/chat.js'
import { CompletionsBody } from '../../../src/server/openai/completions.js'
import { STORE_LIMITS } from '../../../src/server/openai/response-store.js'
import { ResponseBody } from '../../../src/server/openai/responses-input.js'

const TEXT = readFileSync('docs/openai.md', 'utf8')
const SCHEMAS = { chat: ChatBody, completions: CompletionsBody, responses: ResponseBody }
type Endpoint = keyof typeof SCHEMAS

/** Fields of an endpoint in the table under a heading. */
function documented(heading: string, endpoint: Endpoint): string[] {
  const section = TEXT.split(`### ${heading}\n`)[1]!.split('\n#')[0]!
  const rows = section.split('\n').filter((line) => line.startsWith('| `'))
  return rows.flatMap((row) => {
    const [, fields = '', of = ''] = row.split('|')
    return of.split(',').some((name) => name.trim() === endpoint)
      ? [...fields.matchAll(/`(\w+)`/g)].map(([, name]) => name!)
      : []
  })
}

/** What a body with this field alone is told. */
function told(endpoint: Endpoint, field: string, value: unknown): string {
  try {
    SCHEMAS[endpoint].parse({ ...VALID[endpoint], [field]: value })
    return ''
  } catch (error) {
    return (error as Error).message
  }
}

const VALID = {
  chat: { messages: [{ role: 'user', content: 'x' }] },
  completions: { prompt: 'x' },
  responses: { input: 'x' },
}

it.each(['chat', 'completions', 'responses'] as const)('knows the fields of %s, each once', (endpoint) => {
  const all = ['Honoured', 'Without effect', 'Refused'].flatMap((heading) => documented(heading, endpoint))
  expect(all.toSorted()).toEqual(Object.keys(SCHEMAS[endpoint].in.shape).sort())
})

it.each(['chat', 'completions', 'responses'] as const)('knows which fields of %s are refused', (endpoint) => {
  for (const field of documented('Refused', endpoint)) {
    expect(told(endpoint, field, 'something else'), field).toMatch(/^\w+ is not supported: /)
  }
  for (const field of [...documented('Honoured', endpoint), ...documented('Without effect', endpoint)]) {
    expect(told(endpoint, field, 'something else'), field).not.toMatch(/is not supported/)
  }
})

it('has the limits of what is kept', () => {
  const { responses, characters, keepMs, sessions, sessionMs } = STORE_LIMITS
  expect({ responses, characters, keepMs, sessions, sessionMs }).toEqual({
    responses: 1000,
    characters: 64 * 2 ** 20,
    keepMs: 3_600_000,
    sessions: 8,
    sessionMs: 300_000,
  })
  for (const said of ['for an hour', '1,000', '64 MiB', 'five minutes', 'eight conversations'])
    expect(TEXT).toContain(said)
})
