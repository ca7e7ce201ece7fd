// The playground: a page at `/` and the files it is made of, which stand in a fixed table.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { GorgonError } from '../errors.js'
import { packageRoot } from '../index.js'
import type { Exchange, Route } from './http.js'

const HTML = 'text/html; charset=utf-8'
const CSS = 'text/css; charset=utf-8'
const JAVASCRIPT = 'text/javascript; charset=utf-8'
const SVG = 'image/svg+xml'

interface Asset {
  /** Below `/`. */
  readonly path: string
  readonly type: string
  readonly file: () => string
}

/** Written as it is served. */
const written = (name: string, type: string, path = `assets/server/playground/${name}`): Asset => ({
  path,
  type,
  file: () => join(packageRoot(), 'src/server/playground', name),
})

/** Compiled from TypeScript. Paths below `assets/` are those below `src/`, so that modules find each other. */
const compiled = (module: string): Asset => ({
  path: `assets/${module}.js`,
  type: JAVASCRIPT,
  file: () => join(packageRoot(), 'dist/src', `${module}.js`),
})

const uplot = (name: string, type: string, file: string): Asset => ({
  path: `assets/server/playground/${name}`,
  type,
  file: () => join(dirname(createRequire(import.meta.url).resolve('uplot')), file),
})

/** Every file there is; a request's path is looked up here and never becomes a file's name. */
export const ASSETS: readonly Asset[] = [
  written('index.html', HTML, ''),
  written('style.css', CSS),
  written('icon.svg', SVG),
  uplot('uplot.js', JAVASCRIPT, 'uPlot.esm.js'),
  uplot('uplot.css', CSS, 'uPlot.min.css'),
  ...[
    'backoff',
    'browser',
    'client',
    'closing',
    'errors',
    'generation',
    'link',
    'options',
    'public',
    'replay',
    'request',
    'session',
    'socket',
    'url',
  ].map((name) => compiled(`client/${name}`)),
  compiled('server/close-codes'),
  compiled('readable-generation'),
  ...[
    'acceptance',
    'advice',
    'buckets',
    'cache-bar',
    'chart',
    'conversation',
    'dom',
    'failure',
    'figures',
    'form',
    'format',
    'key',
    'legend',
    'link',
    'main',
    'output',
    'progress',
    'provenance',
    'request',
    'run',
    'run-table',
  ].map((name) => compiled(`server/playground/${name}`)),
]

/** The page asks nothing of other hosts, runs nothing that is not a file of ours, and stands in no frame. */
const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
}

/** The page's routes; where it is switched off, one that says so. */
export function playgroundRoutes(isOn: boolean): readonly Route[] {
  if (isOn)
    return ASSETS.map((asset) => ({ method: 'GET', path: `/${asset.path}`, isPublic: true, handle: serving(asset) }))
  const handle = (): never => {
    throw new GorgonError('ERR_ROUTE', 'The playground is switched off here. The API is at /v1; see /v1/models.', {
      path: '/',
    })
  }
  return [{ method: 'GET', path: '/', isPublic: true, handle }]
}

function serving({ file, type }: Asset): Route['handle'] {
  // Read once: files of an installed package do not change.
  let loading: Promise<Content> | null = null
  return async ({ request, response }: Exchange) => {
    loading ??= load(file())
    const { bytes, tag } = await loading.catch((error: unknown) => {
      loading = null
      throw error
    })
    // Browsers ask again each time, which costs little, and so never show the page of another version.
    const headers = { etag: tag, 'cache-control': 'no-cache', ...SECURITY_HEADERS }
    if (isKnown(request, tag)) {
      response.writeHead(304, headers).end()
      return
    }
    response.writeHead(200, { 'content-type': type, 'content-length': bytes.length, ...headers }).end(bytes)
  }
}

interface Content {
  readonly bytes: Buffer
  readonly tag: string
}

async function load(path: string): Promise<Content> {
  try {
    const bytes = await readFile(path)
    return { bytes, tag: `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"` }
  } catch (error) {
    const what = `The playground's ${path} cannot be read. In a checkout, "npm run build:ts" makes it; else install the package again.`
    throw new GorgonError('ERR_FILE', what, { path }, error)
  }
}

function isKnown({ headers }: IncomingMessage, tag: string): boolean {
  const tags = headers['if-none-match']?.split(',').map((one) => one.trim().replace(/^W\//, '')) ?? []
  return tags.includes(tag) || tags.includes('*')
}
