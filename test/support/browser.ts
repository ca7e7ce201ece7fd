// A real Chromium for tests of the playground, and what must hold on every page: nothing fails, and nobody else is asked.
import { existsSync } from 'node:fs'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest'

const executablePath = process.env['CHROMIUM'] || '/usr/bin/chromium'

/** `describe`, where there is a browser. */
export const describeInChromium = existsSync(executablePath)
  ? describe
  : (name: string, body: () => void) =>
      describe.skip(`${name} (skipped: no ${executablePath}; CHROMIUM names another)`, body)

/** Without the sandbox for root, for whom it refuses to work: tests run as root in containers. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] })
}

interface PageOptions extends BrowserContextOptions {
  /** What the browser may complain of. Default: nothing. */
  readonly expected?: RegExp
}

/** Opens pages; after each test they are looked over and closed. Call inside `describeInChromium`. */
export function chromiumPages(): (url: string, options?: PageOptions) => Promise<Page> {
  let browser: Browser
  const complaints: string[] = []
  beforeAll(async () => {
    browser = await launchChromium()
  })
  afterEach(async () => {
    for (const context of browser.contexts()) await context.close()
    expect(complaints.splice(0)).toEqual([])
  })
  afterAll(() => browser?.close())
  return async (url, { expected, ...options } = {}) => {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
    const page = await context.newPage()
    page.setDefaultTimeout(30_000)
    const { host } = new URL(url)
    page.on('console', (message) => {
      if (!['error', 'warning'].includes(message.type()) || expected?.test(message.text())) return
      complaints.push(`${message.type()}: ${message.text()}`)
    })
    page.on('pageerror', (error) => complaints.push(String(error)))
    context.on('request', (request) => {
      if (new URL(request.url()).host !== host) complaints.push(`asked for ${request.url()}`)
    })
    page.on('websocket', (socket) => {
      if (new URL(socket.url()).host !== host) complaints.push(`connected to ${socket.url()}`)
    })
    await page.goto(url)
    return page
  }
}
