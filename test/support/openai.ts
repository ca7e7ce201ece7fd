// OpenAI's own client, for a server of ours.
import OpenAI, { type ClientOptions } from 'openai'

export function openaiOf({ url }: { readonly url: string }, options: Partial<ClientOptions> = {}): OpenAI {
  return new OpenAI({ apiKey: 'a-key-of-tests', baseURL: `${url}/v1`, maxRetries: 0, ...options })
}

/** All that an asynchronous iterable gives. */
export async function allOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
