import { readFileSync } from 'node:fs'
import { mkdir, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { EncodeThread } from '../../src/text/encode-thread.js'
import { openEncoder } from '../../src/text/encoder.js'
import { loadTokenizer, MAX_INLINE_CHARACTERS, type Tokenizer } from '../../src/text/tokenizer.js'
import { failure } from '../support/errors.js'
import { orSkipped, sharedPath } from '../support/shared.js'
import { DEMO, folderWith, LLAMA_DECODER, sentencePiece } from './vocabularies.js'

const demoJson = readFileSync(join(DEMO, 'tokenizer.json'), 'utf8')
const reference = openEncoder(demoJson)

async function withTokenizer(dir: string, use: (tokenizer: Tokenizer) => Promise<void>): Promise<void> {
  const tokenizer = await loadTokenizer(dir)
  if (tokenizer === null) expect.fail(`${dir} has no tokenizer`)
  try {
    await use(tokenizer)
  } finally {
    await tokenizer.close()
  }
}

/** Code-like text that is not a repetition of one word. */
function longText(characters: number): string {
  let text = ''
  for (let line = 0; text.length < characters; line++)
    text += `  const value${line} = compute(${line * 7919}, 'naïve ${line}')\n`
  return text.slice(0, characters)
}

const goldens = sharedPath('goldens', 'demo', 'meta.json')

describe('the demo tokenizer', () => {
  test('encodes with the beginning-of-sequence token unless told otherwise', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      expect([...(await tokenizer.encode('export async function'))]).toEqual([0, 525, 580, 733])
      expect([...(await tokenizer.encode('export async function', { addSpecial: false }))]).toEqual([525, 580, 733])
      expect([...(await tokenizer.encode(''))]).toEqual([0])
      expect(await tokenizer.encode('', { addSpecial: false })).toHaveLength(0)
    }))

  test.skipIf(goldens === null)(`encodes and decodes the golden texts${orSkipped(goldens)}`, () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const { texts, ids } = JSON.parse(readFileSync(goldens!, 'utf8')) as { texts: string[]; ids: number[][] }
      for (const [index, text] of texts.entries()) {
        expect([...(await tokenizer.encode(text))]).toEqual(ids[index])
        expect(tokenizer.decode(ids[index]!)).toBe(text)
      }
    }),
  )

  test('decodes what it encoded, exactly', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      for (const text of ['', ' a .  b , c\t\n\n', "it 's n't", 'π ≠ 日本語 🎉\u0000\uFEFFé', longText(10_000)]) {
        expect(tokenizer.decode(await tokenizer.encode(text))).toBe(text)
      }
    }))

  test('knows its vocabulary', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      expect(tokenizer.vocabSize).toBe(4096)
      expect(tokenizer.tokenId('<|end_of_text|>')).toBe(1)
      expect(tokenizer.tokenId('no such token')).toBeNull()
      expect([
        tokenizer.isSpecial(0),
        tokenizer.isSpecial(1),
        tokenizer.isSpecial(525),
        tokenizer.isSpecial(4096),
      ]).toEqual([true, true, false, false])
      expect([tokenizer.tokenText(525), tokenizer.tokenText(580), tokenizer.tokenText(1)]).toEqual([
        'export',
        ' async',
        '<|end_of_text|>',
      ])
      const [euro] = await tokenizer.encode('€', { addSpecial: false })
      expect(tokenizer.tokenText(euro!)).toBe('\uFFFD')
      expect([tokenizer.tokenText(4096), tokenizer.tokenText(-1), tokenizer.tokenText(0.5)]).toEqual(['', '', ''])
    }))

  test('leaves special tokens out of the text unless asked for them', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      expect(tokenizer.decode([0, 525, 1])).toBe('export')
      expect(tokenizer.decode([0, 525, 1], { skipSpecial: false })).toBe('<|begin_of_text|>export<|end_of_text|>')
      expect(tokenizer.decode([])).toBe('')
    }))
})

describe('long texts are encoded in a worker thread', () => {
  test('with the same ids as on this one, at the boundary and far past it', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      for (const characters of [MAX_INLINE_CHARACTERS, MAX_INLINE_CHARACTERS + 1, 300_000]) {
        const text = longText(characters)
        const ids = await tokenizer.encode(text)
        expect(Buffer.from(ids.buffer).equals(Buffer.from(reference.encode(text, true).buffer))).toBe(true)
      }
      const text = longText(MAX_INLINE_CHARACTERS + 1)
      expect(await tokenizer.encode(text, { addSpecial: false })).toEqual(reference.encode(text, false))
    }))

  test('while this thread runs on', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      await tokenizer.encode(longText(MAX_INLINE_CHARACTERS + 1))
      let longestMs = 0
      let last = performance.now()
      const timer = setInterval(() => {
        longestMs = Math.max(longestMs, performance.now() - last)
        last = performance.now()
      }, 1)
      const start = performance.now()
      await tokenizer.encode(longText(1_000_000))
      clearInterval(timer)
      const encodeMs = performance.now() - start
      expect(longestMs).toBeLessThan(encodeMs / 2)
    }))

  test('several at once, each with its own ids', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const texts = [5_000, 50_000, 6_000, 100].map(longText)
      const all = await Promise.all(texts.map((text) => tokenizer.encode(text)))
      expect(all).toEqual(texts.map((text) => reference.encode(text, true)))
    }))

  test('that holds the process open only while it works', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const ports = () => process.getActiveResourcesInfo().filter((resource) => resource === 'MessagePort').length
      const before = ports()
      const encoding = tokenizer.encode(longText(50_000))
      await new Promise((resolve) => setImmediate(resolve))
      expect(ports()).toBeGreaterThan(before)
      await encoding
      expect(ports()).toBe(before)
    }))

  test('that an abort does not wait for', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const text = longText(500_000)
      await expect(tokenizer.encode(text, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i)
      await expect(tokenizer.encode('short', { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i)

      const running = new AbortController()
      const waiting = new AbortController()
      const reason = new Error('no longer wanted')
      const first = tokenizer.encode(text, { signal: running.signal })
      const second = tokenizer.encode(text, { signal: waiting.signal })
      const third = tokenizer.encode(longText(5_000), { signal: new AbortController().signal })
      running.abort(reason)
      waiting.abort()
      await expect(first).rejects.toBe(reason)
      await expect(second).rejects.toMatchObject({ name: 'AbortError' })
      expect(await third).toEqual(reference.encode(longText(5_000), true))
      // Too late to change anything.
      running.abort()
    }))

  test('that takes short texts first', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const done: string[] = []
      const encode = (name: string, characters: number) =>
        tokenizer.encode(longText(characters)).then(() => done.push(name))
      const all = [encode('running', 5_000), encode('long', 60_000), encode('short', 6_000), encode('shorter', 5_500)]
      await Promise.all(all)
      expect(done).toEqual(['running', 'shorter', 'short', 'long'])
    }))

  test('that ends in the middle of a long text which nobody wants any more', () =>
    withTokenizer(DEMO, async (tokenizer) => {
      const started: unknown[] = []
      const onWorker = (worker: unknown) => started.push(worker)
      process.on('worker', onWorker)
      try {
        for (const [characters, workers] of [
          [200_000, 1],
          [200_001, 2],
        ] as const) {
          const unwanted = new AbortController()
          const first = tokenizer.encode(longText(characters), { signal: unwanted.signal })
          const second = tokenizer.encode(longText(5_000))
          unwanted.abort()
          await expect(first).rejects.toMatchObject({ name: 'AbortError' })
          expect(await second).toEqual(reference.encode(longText(5_000), true))
          expect(started).toHaveLength(workers)
        }
      } finally {
        process.off('worker', onWorker)
      }
    }))

  test('that close ends, whatever it was at', async () => {
    const tokenizer = await loadTokenizer(DEMO)
    const encodings = [longText(500_000), longText(5_000)].map((text) =>
      failure(() => tokenizer!.encode(text), 'ERR_CLOSED'),
    )
    await tokenizer!.close()
    await Promise.all(encodings)
    await tokenizer!.close()
    await failure(() => tokenizer!.encode('short'), 'ERR_CLOSED')
    await failure(() => tokenizer!.encode(longText(5_000)), 'ERR_CLOSED')
    expect(tokenizer!.decode([525])).toBe('export')
  })

  test('whose failure fails the text, and the thread is tried anew for the next', async () => {
    const thread = new EncodeThread('{"model": {}}', 'tokenizer.json')
    const request = { text: 'a', addSpecial: true }
    const both = [failure(() => thread.encode(request), 'ERR_TOKENIZER', /encoding thread failed: model undefined/)]
    both.push(failure(() => thread.encode(request), 'ERR_TOKENIZER', /encoding thread failed/))
    await Promise.all(both)
    await thread.close()
  })
})

describe('a text that cannot be encoded is ERR_TOKENIZER', () => {
  const unigram = { model: { type: 'Unigram', unk_id: null, vocab: [['a', -1]] }, decoder: LLAMA_DECODER }
  for (const length of [2, MAX_INLINE_CHARACTERS + 1]) {
    test(`${length} characters`, async () => {
      const dir = await folderWith({ 'tokenizer.json': unigram })
      await withTokenizer(dir, async (tokenizer) => {
        const error = await failure(() => tokenizer.encode('b'.repeat(length)), 'ERR_TOKENIZER', /no token id/)
        expect(error.details).toMatchObject({ characters: length })
        expect(await tokenizer.encode('a'.repeat(length))).toHaveLength(length)
      })
    })
  }
})

describe('a model folder', () => {
  test('without a tokenizer.json has no tokenizer', async () => {
    expect(await loadTokenizer(await folderWith({}))).toBeNull()
    expect(await loadTokenizer('/nowhere/at/all')).toBeNull()
    expect(await loadTokenizer(join(DEMO, 'config.json'))).toBeNull()
  })

  const malformed: Record<string, unknown> = {
    'cut short': demoJson.slice(0, 1000),
    empty: '',
    'a list': [],
    'no tokenizer': { name: 'something else' },
    'with an unknown decoder': sentencePiece({ decoder: { type: 'CTC' } }),
  }
  for (const [name, file] of Object.entries(malformed)) {
    test(`with a tokenizer.json that is ${name} is ERR_TOKENIZER and names the file`, async () => {
      const dir = await folderWith({ 'tokenizer.json': file })
      await failure(() => loadTokenizer(dir), 'ERR_TOKENIZER', /tokenizer\.json: /)
    })
  }

  test('with a malformed tokenizer_config.json is ERR_TOKENIZER', async () => {
    const dir = await folderWith({ 'tokenizer.json': sentencePiece(), 'tokenizer_config.json': '[' })
    await failure(() => loadTokenizer(dir), 'ERR_TOKENIZER', /tokenizer_config\.json/)
  })

  test('with a file that cannot be read is ERR_FILE', async () => {
    const dir = await folderWith({})
    await mkdir(join(dir, 'tokenizer.json'))
    await failure(() => loadTokenizer(dir), 'ERR_FILE', /tokenizer\.json cannot be read/)
  })

  test('with a file too large to be one is ERR_TOKENIZER', async () => {
    const dir = await folderWith({ 'tokenizer.json': '' })
    await truncate(join(dir, 'tokenizer.json'), 2 ** 30)
    await failure(() => loadTokenizer(dir), 'ERR_TOKENIZER', /1073741824 bytes/)
  })

  test('names special tokens in its tokenizer_config.json too, in any spelling', async () => {
    const file = sentencePiece({ added_tokens: [] })
    const config = {
      eos_token: { content: '</s>' },
      bos_token: '<s>',
      pad_token: null,
      additional_special_tokens: ['a', { content: 'b' }, 7],
      added_tokens_decoder: { 262: { content: 'c', special: true }, 263: { content: '.', special: false } },
    }
    const dir = await folderWith({ 'tokenizer.json': file, 'tokenizer_config.json': config })
    await withTokenizer(dir, async (tokenizer) => {
      const special = ['<unk>', '<s>', '</s>', 'a', 'b', 'c', '.', 'ab'].filter((token) =>
        tokenizer.isSpecial(tokenizer.tokenId(token)!),
      )
      expect(special).toEqual(['<s>', '</s>', 'a', 'b', 'c'])
    })
  })
})
