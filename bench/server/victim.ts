// A client made to be killed: streams over both transports, half of them over each. Started by faults.ts.
import { request } from 'node:http'
import { CountingClient } from './counting-client.js'

const [url = '', streams = '1'] = process.argv.slice(2)
const LONG = { maxTokens: 8000, ignoreEos: true }
const PROMPT = 'export class '

async function overSocket(id: string): Promise<void> {
  const client = await CountingClient.connect(url)
  client.generate(id, PROMPT, LONG)
  await client.until(() => client.tokensOf(id).length > 0)
}

function overHttp(): Promise<void> {
  const body = JSON.stringify({ prompt: PROMPT, max_tokens: LONG.maxTokens, ignore_eos: true, stream: true })
  return new Promise((begun, failed) => {
    const headers = { 'content-type': 'application/json' }
    const asked = request(`${url}/v1/completions`, { method: 'POST', headers, agent: false }, (response) =>
      response.on('data', () => begun()),
    )
    asked.on('error', failed)
    asked.end(body)
  })
}

await Promise.all(Array.from({ length: Number(streams) }, (_, i) => (i % 2 === 0 ? overSocket(`v${i}`) : overHttp())))
process.send!('every stream runs')
// It waits to be killed; without its parent nobody would.
process.on('disconnect', () => process.exit(1))
