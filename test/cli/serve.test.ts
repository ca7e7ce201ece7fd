// gorgon serve within this process: flags, keys, what it says, and how it ends.
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../src/cli/program.js'
import { connect } from '../../src/client/node.js'
import { openaiOf } from '../support/openai.js'
import { errorLine, gorgon, Sink } from './command.js'

const KEY = 'a-key-for-the-tests'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gorgon-serve-'))
})
afterAll(() => rm(folder, { recursive: true }))

async function fileOf(text: string): Promise<string> {
  const file = join(folder, 'keys.txt')
  await writeFile(file, text)
  return file
}

/** Standard error, of which the tests wait for parts. */
class Ear extends Sink {
  #hear: (() => void) | null = null

  override _write(chunk: Buffer, encoding: string, done: () => void): void {
    super._write(chunk as never, encoding as never, done)
    this.#hear?.()
  }

  /** @returns what matched, as soon as something does. */
  async heard(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.text)
      if (match) return match
      await new Promise<void>((resolve) => {
        this.#hear = resolve
      })
    }
  }
}

interface Serving {
  readonly url: string
  readonly stderr: Ear
  /** Stops it as a signal would, and gives its exit code. */
  stop(): Promise<number>
}

/** Serves until `use` is done. */
async function serving(
  argv: readonly string[],
  use: (serving: Serving) => Promise<void>,
  { env = {}, isTerminal = false }: { readonly env?: Record<string, string>; readonly isTerminal?: boolean } = {},
): Promise<string> {
  const interruption = new AbortController()
  const stderr = new Ear(isTerminal)
  const stdout = new Sink()
  const ended = run(['serve', '--port', '0', '--threads', '1', ...argv], {
    stdin: new PassThrough().end(),
    stdout,
    stderr,
    env,
    signal: interruption.signal,
  })
  const stop = (): Promise<number> => {
    interruption.abort()
    return ended
  }
  const hasFailed = ended.then((code) => {
    throw new Error(`it ended with ${code}:\n${stderr.text}`)
  })
  hasFailed.catch(() => undefined)
  const [, url] = await Promise.race([stderr.heard(/(http:\/\/127\.0\.0\.1:\d+)/), hasFailed])
  try {
    await Promise.race([stderr.heard(/"msg":"ready"|Try it/), hasFailed])
    await use({ url: url!, stderr, stop })
  } finally {
    expect(await stop()).toBe(0)
  }
  expect(stdout.text).toBe('')
  return stderr.text
}

const authorized = (key: string) => ({ headers: { authorization: `Bearer ${key}` } })
const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

describe('flags that are not right', () => {
  test.each([
    [['--port', '70000'], /--port is 70000: use a whole number from 0 to 65535/],
    [['--port', 'http'], /--port is "http"/],
    [['--drain', 'soon'], /--drain is "soon": use a number of seconds/],
    [['--drain', '-1'], /--drain is "-1": use a number of seconds/],
    [['--max-body', 'large'], /--max-body is "large": use a number of bytes/],
    [
      ['--max-body', '100'],
      /--max-body is "100": use a number of bytes from 1024 to 2147483647, or a size like 4MiB\.$/,
    ],
    [
      ['--max-body', '10GB'],
      /^gorgon: ERR_OPTION: --max-body is "10GB": use a number of bytes from 1024 to 2147483647, /,
    ],
    [['--max-context', '1'], /--max-context is 1: use a whole number, at least 2/],
    [['--limit', 'choices'], /--limit is "choices": use NAME=VALUE, such as choices=16/],
    [['--limit', 'choises=3'], /--limit is "choises=3": .* Did you mean "choices"\?/],
    [['--limit', '__proto__.x=3'], /--limit is "__proto__\.x=3": .* Names: bodyBytes, .*perKey\.concurrent/],
    [['--limit', 'choices=5000'], /--limit choices is 5000: use a whole number from 1 to 1024/],
    [['--limit', 'perKey.concurrent=no'], /--limit perKey\.concurrent is "no": use a whole number, at least 1/],
    [['--max-body', '0'], /--max-body is "0": use a number of bytes from 1024 to 2147483647, or a size like 4MiB\.$/],
    [['--max-sequences', '0'], /--max-sequences is 0: use a whole number from 1 to 1024/],
    [['--max-queue', 'many'], /--max-queue is "many"/],
    [['--requests-per-minute', '-1'], /--requests-per-minute is -1/],
    [['--concurrent-per-key', '0'], /--concurrent-per-key is 0/],
    [['--sessions-per-key', '0'], /--sessions-per-key is 0/],
    [['--max-connections', '0'], /--max-connections is 0/],
    [['--max-sessions', '0'], /--max-sessions is 0/],
    [['--origin', 'https://app.example/path'], /--origin is "https:\/\/app\.example\/path": use origins such as/],
    [['--proxy', 'the-balancer'], /--proxy is "the-balancer": use IP addresses/],
    [['--host', '0.0.0.0'], /--host is "0\.0\.0\.0": use an address of this machine; .*--api-key-file.*--allow-public/],
    [['--log-level', 'loud'], /--log-level.*loud.*Allowed choices are debug, info, warn, error, silent/],
    [['--api-key', 'short'], /--api-key is no key: use at least 8 characters/],
    [['--name', ''], /--name is empty/],
    [['--budget', '8'], /--budget is 8/],
    [['--frobnicate'], /unknown option '--frobnicate'/],
  ])('%j', async (argv, message) => {
    const { exitCode, stdout, stderr } = await gorgon(['serve', ...argv])
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
    expect(errorLine(stderr)).toMatch(message)
    expect(stderr).toMatch(/\nTry: gorgon serve --help\n$/)
  })
})

describe('keys', () => {
  test('come from the file, the environment and the flag, and are asked for', async () => {
    const file = await fileOf(`# of the tests\n\nteam-a   ${KEY}-1\n${KEY}-2\r\n`)
    const argv = ['--api-key-file', file, '--api-key', `${KEY}-3`]
    const env = { GORGON_API_KEYS: `${KEY}-4, ${KEY}-5` }
    const log = await serving(
      argv,
      async ({ url }) => {
        expect((await fetch(`${url}/metrics`)).status).toBe(401)
        expect((await fetch(`${url}/metrics`, authorized(`${KEY}-6`))).status).toBe(401)
        for (const i of [1, 2, 3, 4, 5]) {
          expect((await fetch(`${url}/metrics`, authorized(`${KEY}-${i}`))).status).toBe(200)
        }
      },
      { env },
    )
    expect(log).not.toContain(KEY)
    expect(linesOf(log)).toContainEqual(
      expect.objectContaining({ level: 'warn', msg: expect.stringContaining('use --api-key-file') }),
    )
  })

  test.each([
    ['# nobody\n', /has no keys/],
    ['a b c\n', /has 3 words in line 1\. Write KEY, or NAME KEY/],
    [
      `team-a ${KEY}-1\nteam-b ${KEY}-2\nteam-a ${KEY}-3-secret\n`,
      /ERR_FILE: .*keys\.txt" gives the keys of lines 1 and 3 one name\. Give each its own/,
    ],
    [`alice ${KEY}-secret\nbob ${KEY}-secret\n`, /ERR_FILE: .*keys\.txt" has one key in lines 1 and 2\. Give each/],
    ['team-a secret\n', /Line 1 of .*keys\.txt is no key: use at least 8 characters/],
  ])('in a file that says %j are refused, and not shown', async (text, message) => {
    const { exitCode, stderr } = await gorgon(['serve', '--api-key-file', await fileOf(text)])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(message)
    expect(stderr).not.toContain('secret')
  })

  test('in a file that is not there are an error, not an open server', async () => {
    const { exitCode, stderr } = await gorgon(['serve', '--api-key-file', join(folder, 'none.txt')])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/ERR_FILE: --api-key-file .*none\.txt" cannot be read \(ENOENT\)/)
  })

  test('in the environment have a shortest length too', async () => {
    const { stderr } = await gorgon(['serve'], { env: { GORGON_API_KEYS: `${KEY},oops` } })
    expect(errorLine(stderr)).toMatch(/Key 2 of GORGON_API_KEYS is no key/)
    expect(stderr).not.toContain('oops')
  })
})

describe('it cannot begin', () => {
  test('on a port that is in use, and says so before it loads anything', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as { port: number }
    const { exitCode, stderr } = await gorgon(['serve', '--port', String(port)])
    other.close()
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(new RegExp(`ERR_LISTEN: Port ${port} of 127\\.0\\.0\\.1 is in use`))
    // Not a word of listening, or of a model.
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
  })

  test('with a model that is not there, and no longer listens then', async () => {
    const { exitCode, stderr } = await gorgon(['serve', '--port', '0', '--model', join(folder, 'no-model')])
    expect(exitCode).toBe(2)
    expect(errorLine(stderr)).toMatch(/ERR_MODEL_NOT_FOUND/)
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(stderr)![0]
    await expect(fetch(`${url}/health/live`)).rejects.toThrow()
  })
})

test('to a terminal it speaks in words', async () => {
  const text = await serving(
    [],
    async ({ url, stderr }) => {
      expect(stderr.text).toMatch(/^gorgon \d+\.\d+\.\d+ listens on http:\/\/127\.0\.0\.1:\d+$/m)
      expect(stderr.text).toMatch(/^Serving "demo" on cpu \(.*\), 1 threads\. Try it:$/m)
      expect(stderr.text).toContain(`  in a browser   ${url}\n`)
      expect(stderr.text).toMatch(/^ {2}with curl {6}curl http/m)
    },
    { isTerminal: true },
  )
  expect(text).toContain('Finishing what runs; Ctrl-C ends it at once.')
})

test('to anything else it speaks JSON lines, one for each thing that happens', async () => {
  const log = await serving(['--name', 'my-model'], async ({ url }) => {
    expect(await (await fetch(`${url}/health/ready`)).json()).toEqual({ status: 'ready' })
  })
  expect(linesOf(log)).toEqual([
    expect.objectContaining({ level: 'info', msg: 'listening', url: expect.stringMatching(/^http:/) }),
    expect.objectContaining({ level: 'info', msg: 'ready', model: 'my-model', backend: 'cpu', context: 16384 }),
    expect.objectContaining({ msg: 'draining' }),
    expect.objectContaining({ msg: 'closed' }),
  ])
})

test('silent, it says nothing', async () => {
  const interruption = new AbortController()
  const stderr = new Ear()
  const io = { stdin: new PassThrough().end(), stdout: new Sink(), stderr, env: {}, signal: interruption.signal }
  const ended = run(['serve', '--port', '0', '--threads', '1', '--log-level', 'silent'], io)
  interruption.abort()
  expect(await ended).toBe(0)
  expect(stderr.text).toBe('')
})

test('stopped while it loads, it says so and ends well', async () => {
  const { exitCode, stderr } = await gorgon(['serve', '--port', '0'], { signal: AbortSignal.abort() })
  expect(exitCode).toBe(0)
  expect(linesOf(stderr).map((line) => line.msg)).toEqual(['listening', 'stopped while loading'])
})

describe('the log of a request', () => {
  const PROMPT = 'const launchCode = 4711'

  async function logOf(argv: readonly string[]): Promise<string> {
    return serving(argv, async ({ url, stderr }) => {
      const client = openaiOf({ url })
      await client.completions.create({ model: 'demo', prompt: PROMPT, max_tokens: 4, user: 'launchCode' })
      await stderr.heard(/"msg":"generation done"/)
      // Mistakes are answered with the words of the request, which are not the log's either.
      const mistaken = { model: 'demo', prompt: PROMPT, max_tokens: 'launchCode' as never }
      await expect(client.completions.create(mistaken)).rejects.toThrow('launchCode')
      await expect(client.completions.create({ model: 'launchCode', prompt: PROMPT })).rejects.toThrow('launchCode')
    })
  }

  test('says what it took, and nothing of what it was', async () => {
    const log = await logOf(['--log-level', 'debug'])
    expect(linesOf(log)).toContainEqual(
      expect.objectContaining({
        msg: 'generation done',
        model: 'demo',
        endpoint: 'completions',
        principal: 'address:127.0.0.1',
        finish: 'length',
        usage: expect.objectContaining({ completion: 4 }),
        e2eMs: expect.any(Number),
      }),
    )
    expect(log).not.toContain('launchCode')
  })

  test('says all of it when asked to', async () => {
    expect(await logOf(['--log-content'])).toContain(PROMPT)
  })
})

test('a chat template of the command line is the model’s', async () => {
  const template = join(folder, 'template.jinja')
  await writeFile(template, '{% for message in messages %}[{{ message.content }}]{% endfor %}')
  const tokensOf = async (argv: readonly string[]): Promise<number> => {
    let tokens = 0
    await serving(argv, async ({ url }) => {
      const messages = [{ role: 'user', content: 'x' }]
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'demo', messages, max_tokens: 1 }),
      })
      const { usage } = (await response.json()) as { usage: { prompt_tokens: number } }
      tokens = usage.prompt_tokens
    })
    return tokens
  }
  expect(await tokensOf(['--chat-template', template])).toBeGreaterThan(await tokensOf([]))
  const { exitCode, stderr } = await gorgon(['serve', '--port', '0', '--chat-template', join(folder, 'none.jinja')])
  expect({ exitCode, code: errorLine(stderr).split(':')[1] }).toEqual({ exitCode: 2, code: ' ERR_CHAT_TEMPLATE' })
})

test('limits that flags set are the server’s and the engine’s', async () => {
  await serving(['--max-body', '1KiB'], async ({ url }) => {
    const post = (text: string) =>
      fetch(`${url}/tokenize`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ text }),
      })
    expect((await post('x'.repeat(900))).status).toBe(200)
    expect((await post('x'.repeat(1100))).status).toBe(413)
    await using client = connect(url)
    await expect(client.generate('x'.repeat(1100)).result()).rejects.toMatchObject({
      code: 'ERR_TOO_LARGE',
      details: { limit: 1024 },
    })
  })
})
