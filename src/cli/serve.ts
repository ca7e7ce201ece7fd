// gorgon serve: a model behind sockets, until somebody stops it.
import { once } from 'node:events'
import { basename, resolve } from 'node:path'
import { type Engine, type LoadProgress, loadEngine, packageManifest } from '../index.js'
import { createLogger, createServer, type Logger, type LogLevel } from '../server/index.js'
import { type KeySources, readKeys } from './api-keys.js'
import { type Given, readLoadOptions, UsageError, withServerOptions } from './args.js'
import { placeOf } from './format.js'
import { type Io, write } from './io.js'
import { createProgress } from './progress.js'

/** Flags of this command beside those that set options. */
interface ServeFlags extends KeySources {
  readonly name?: string
  readonly allowPublic?: true
  readonly playground: boolean
  readonly logLevel: LogLevel
  readonly logContent?: true
}

/** It listens before the model is there, so that whoever asks is told how far loading is. */
export async function serve(given: Given, io: Io): Promise<void> {
  const flags = given as unknown as ServeFlags
  const load = readLoadOptions(given, { model: 'demo' })
  const name = flags.name ?? basename(resolve(load.model))
  if (name === '') throw new UsageError('--name is empty: give what requests shall call the model.')
  const keys = await readKeys(flags, io)

  const progress = createProgress(io.stderr)
  const print = (text: string): void => {
    progress.clear()
    void write(io.stderr, text).catch(() => undefined)
  }
  const logger = createLogger(flags.logLevel, { write: print })
  const voice = io.stderr.isTTY ? inWords(print) : inLog(logger)
  if (flags.apiKey) {
    voice.warn('a key given with --api-key is in the list of processes for all to see: use --api-key-file')
  }

  let arrive!: (engine: Engine) => void
  const arrival = new Promise<Engine>((resolve) => {
    arrive = resolve
  })
  let loading: LoadProgress | undefined
  const server = withServerOptions(given, (options) =>
    createServer({
      ...options,
      engine: { [name]: arrival },
      keys,
      logger,
      allowPublic: flags.allowPublic ?? false,
      playground: flags.playground,
      logContent: flags.logContent ?? false,
      loading: () => loading,
    }),
  )
  try {
    const { url } = await server.listen()
    voice.listening(url)
    await using engine = await loadEngine({
      ...load,
      signal: io.signal,
      onProgress: (now) => {
        loading = now
        progress.show(now.phase === 'measure' ? 'measuring this machine' : 'loading', now.done, now.total)
      },
    })
    for (const warning of engine.info.warnings) voice.warn(warning)
    arrive(engine)
    voice.ready({ name, engine, url, hasKeys: keys.length > 0, hasPlayground: flags.playground })
    if (!io.signal.aborted) await once(io.signal, 'abort')
    voice.draining()
    await server.close()
    voice.closed()
  } catch (error) {
    // Stopped while it loaded: nothing runs, and nothing went wrong.
    if (!io.signal.aborted || error !== io.signal.reason) throw error
    voice.stopped()
  } finally {
    progress.clear()
    await server.close({ drainMs: 0 })
  }
}

interface Ready {
  readonly name: string
  readonly engine: Engine
  readonly url: string
  readonly hasKeys: boolean
  readonly hasPlayground: boolean
}

/** What is told of the server's life. */
interface Voice {
  warn(text: string): void
  listening(url: string): void
  ready(about: Ready): void
  draining(): void
  /** Before there was a model. */
  stopped(): void
  closed(): void
}

/** For a terminal. */
function inWords(print: (text: string) => void): Voice {
  return {
    warn: (text) => print(`gorgon: warning: ${text}\n`),
    listening: (url) => print(`gorgon ${packageManifest().version} listens on ${url}\n`),
    ready({ name, engine, url, hasKeys, hasPlayground }) {
      const key = hasKeys ? ` -H 'Authorization: Bearer KEY'` : ''
      const body = JSON.stringify({ model: name, prompt: 'const x = ', max_tokens: 40 })
      const curl = `curl ${url}/v1/completions${key} -H 'Content-Type: application/json' -d '${body}'`
      const page = hasPlayground ? `  in a browser   ${url}\n` : ''
      print(`
Serving "${name}" on ${placeOf(engine.info)}. Try it:

${page}  with curl      ${curl}

Ctrl-C lets what runs finish and ends the server; a second one ends it at once.
`)
    },
    draining: () => print('\nFinishing what runs; Ctrl-C ends it at once.\n'),
    stopped: () => print('\nStopped while the model was loading.\n'),
    closed: () => undefined,
  }
}

/** For whoever collects what programs write. */
function inLog(logger: Logger): Voice {
  return {
    warn: (text) => logger.warn({}, text),
    listening: (url) => logger.info({ url, version: packageManifest().version }, 'listening'),
    ready({ name, engine }) {
      const { backend, isa, dtype, threads, context } = engine.info
      logger.info({ model: name, backend, isa, dtype, threads, context }, 'ready')
    },
    draining: () => logger.info({}, 'draining'),
    stopped: () => logger.info({}, 'stopped while loading'),
    closed: () => logger.info({}, 'closed'),
  }
}
