// Small tokenizer.json files and model folders for the tests of src/text.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

export const DEMO = new URL('../../models/demo/', import.meta.url).pathname

const folders: string[] = []
afterAll(async () => {
  for (const dir of folders.splice(0)) await rm(dir, { recursive: true })
})

/** A new folder with these files; what is not a string is written as JSON. Removed when the test file is done. */
export async function folderWith(files: Readonly<Record<string, unknown>>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'gorgon-text-'))
  folders.push(dir)
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  return dir
}

export function byteToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
}

const LLAMA_NORMALIZER = {
  type: 'Sequence',
  normalizers: [
    { type: 'Prepend', prepend: '▁' },
    { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
  ],
}

export const LLAMA_DECODER = {
  type: 'Sequence',
  decoders: [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: 1, stop: 0 },
  ],
}

/**
 * A SentencePiece-style BPE vocabulary as Llama 2 has it: <unk> <s> </s>, a token per byte, letters, and the results of the merges.
 * `changes` replace parts of the file.
 */
export function sentencePiece(
  changes: Readonly<Record<string, unknown>> = {},
  modelChanges: Readonly<Record<string, unknown>> = {},
) {
  const merges = [
    ['▁', '▁'],
    ['a', 'b'],
    ['▁', 'a'],
    ['▁▁', '▁▁'],
    ['▁', 'ab'],
    ['b', 'a'],
    ['▁a', 'b'],
    ['c', 'ab'],
  ]
  const tokens = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, byte) => byteToken(byte))]
  tokens.push('▁', 'a', 'b', 'c', '.', ...merges.map((pair) => pair.join('')))
  const special = (id: number) => ({
    id,
    content: tokens[id],
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })
  const template = [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }]
  return {
    version: '1.0',
    added_tokens: [special(0), special(1), special(2)],
    normalizer: LLAMA_NORMALIZER as unknown,
    pre_tokenizer: null as unknown,
    post_processor: {
      type: 'TemplateProcessing',
      single: template,
      pair: template,
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    } as unknown,
    decoder: LLAMA_DECODER as unknown,
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id])),
      merges,
      ...modelChanges,
    },
    ...changes,
  }
}
