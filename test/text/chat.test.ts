import { describe, expect, test } from 'vitest'
import { loadChatTemplate } from '../../src/text/chat.js'
import { failure } from '../support/errors.js'
import { DEMO, folderWith } from './vocabularies.js'

const PLAIN =
  '{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}'
const MESSAGES = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hi' },
]

async function templateOf(config: object | null, jinja?: string) {
  return loadChatTemplate(
    await folderWith({
      ...(config && { 'tokenizer_config.json': config }),
      ...(jinja !== undefined && { 'chat_template.jinja': jinja }),
    }),
  )
}

describe('a chat is rendered', () => {
  test('with the special tokens, and the header of the answer unless told otherwise', async () => {
    const chat = await templateOf({ chat_template: PLAIN, eos_token: { content: '</s>' } })
    expect(chat.exists).toBe(true)
    expect(chat.render(MESSAGES).text).toBe('[system]Be brief.</s>[user]Hi</s>[assistant]')
    expect(chat.render(MESSAGES, { addGenerationPrompt: false }).text).toBe('[system]Be brief.</s>[user]Hi</s>')
  })

  test('without special tokens the model does not have', async () => {
    const chat = await templateOf({ chat_template: PLAIN, eos_token: null })
    expect(chat.render(MESSAGES).text).toBe('[system]Be brief.[user]Hi[assistant]')
  })

  test('so that the beginning of the sequence is there once', async () => {
    const withBos = await templateOf({ chat_template: `{{ bos_token }}${PLAIN}`, bos_token: '<s>' })
    expect(withBos.render(MESSAGES)).toMatchObject({ text: expect.stringMatching(/^<s>\[system\]/), addSpecial: false })
    const withoutBos = await templateOf({ chat_template: PLAIN, bos_token: '<s>' })
    expect(withoutBos.render(MESSAGES).addSpecial).toBe(true)
    const unnamed = await templateOf({ chat_template: PLAIN })
    expect(unnamed.render(MESSAGES).addSpecial).toBe(true)
  })

  test('from chat_template.jinja, rather than the configuration', async () => {
    expect((await templateOf({ chat_template: 'old' }, 'new {{ messages[0].content }}')).render(MESSAGES).text).toBe(
      'new Be brief.',
    )
    expect((await templateOf(null, 'alone')).render(MESSAGES).text).toBe('alone')
  })

  test('from a file of the caller, rather than the model', async () => {
    const dir = await folderWith({ 'chat_template.jinja': 'own', 'mine.txt': 'mine', 'bad.txt': '{% if %}' })
    expect((await loadChatTemplate(dir, `${dir}/mine.txt`)).render(MESSAGES).text).toBe('mine')
    await failure(
      () => loadChatTemplate(dir, `${dir}/none.txt`),
      'ERR_CHAT_TEMPLATE',
      /none\.txt: there is no such file/,
    )
    // Whoever names a file wants to know at once, and not with the first chat.
    await failure(() => loadChatTemplate(dir, `${dir}/bad.txt`), 'ERR_CHAT_TEMPLATE', /bad\.txt: .* malformed/)
    await failure(() => loadChatTemplate(dir, dir), 'ERR_FILE')
  })

  test('of the demo model, as one text that goes on', async () => {
    const chat = await loadChatTemplate(DEMO)
    const turns = [
      { role: 'system', content: 'a' },
      { role: 'user', content: 'b\n' },
      { role: 'assistant', content: 'c' },
      { role: 'user', content: 'd' },
    ]
    expect(turns.map((_, i) => chat.render(turns.slice(0, i + 1)).text)).toEqual([
      'a',
      'a\nb\n',
      'a\nb\nc',
      'a\nb\nc\nd',
    ])
  })

  test('from one of several templates', async () => {
    const list = [
      { name: 'default', template: 'one' },
      { name: 'tool_use', template: 'two' },
    ]
    for (const chat_template of [list, { default: 'one', tool_use: 'two' }]) {
      const chat = await templateOf({ chat_template })
      expect([chat.render(MESSAGES).text, chat.render(MESSAGES, { template: 'tool_use' }).text]).toEqual(['one', 'two'])
      await failure(
        () => chat.render(MESSAGES, { template: 'rag' }),
        'ERR_CHAT_TEMPLATE',
        /called "rag".*"default", "tool_use"/,
      )
    }
  })

  test('with variables of the caller, and none for tools', async () => {
    const chat = await templateOf({
      chat_template: '{% if tools is none %}no tools{% else %}{{ tools[0] }}{% endif %}{{ mood }}',
    })
    expect(chat.render(MESSAGES).text).toBe('no tools')
    expect(chat.render(MESSAGES, { variables: { tools: ['saw'], mood: '!' } }).text).toBe('saw!')
  })
})

describe('ERR_CHAT_TEMPLATE says why', () => {
  test('a model without a template loads, and cannot render', async () => {
    for (const chat of [await templateOf(null), await templateOf({}), await templateOf({ chat_template: null })]) {
      expect(chat.exists).toBe(false)
      await failure(
        () => chat.render(MESSAGES),
        'ERR_CHAT_TEMPLATE',
        /the model has no chat template\. Pass the prompt as text/,
      )
    }
  })

  test('a template may refuse the messages', async () => {
    const chat = await templateOf({
      chat_template:
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok",
    })
    await failure(() => chat.render(MESSAGES), 'ERR_CHAT_TEMPLATE', /refused the messages: System role not supported\./)
    expect(chat.render(MESSAGES.slice(1)).text).toBe('ok')
  })

  test('a template may fail', async () => {
    const chat = await templateOf({ chat_template: '{{ messages[0].content.nothing() }}' })
    const error = await failure(
      () => chat.render(MESSAGES),
      'ERR_CHAT_TEMPLATE',
      /tokenizer_config\.json: the chat template refused/,
    )
    expect(error.cause).toBeInstanceOf(Error)
  })

  test('a template may be malformed', async () => {
    const chat = await templateOf(null, '{% if %}')
    await failure(
      () => chat.render(MESSAGES),
      'ERR_CHAT_TEMPLATE',
      /chat_template\.jinja: the chat template is malformed/,
    )
  })

  test('a template may be no text', async () => {
    for (const chat_template of [7, [], [null], [{ name: 'default' }], { default: 7 }]) {
      const chat = await templateOf({ chat_template })
      await failure(() => chat.render(MESSAGES), 'ERR_CHAT_TEMPLATE', /called "default"\. It has: none/)
    }
  })
})

test('a malformed configuration is ERR_TOKENIZER', async () => {
  const dir = await folderWith({ 'tokenizer_config.json': '{' })
  await failure(() => loadChatTemplate(dir), 'ERR_TOKENIZER', /tokenizer_config\.json/)
})
