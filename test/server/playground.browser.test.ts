// The playground in a real browser, over the real server and the demo model.
import type { Page } from 'playwright-core'
import { beforeAll, expect, test } from 'vitest'
import type { Engine } from '../../src/index.js'
import type { GenerateOptionsInput } from '../../src/options.js'
import { chromiumPages, describeInChromium } from '../support/browser.js'
import { expectCompiled } from '../support/compiled.js'
import { type RunningServer, runningServers } from '../support/server.js'

type OutputModule = typeof import('../../src/server/playground/output.js')

const PROMPT = 'export function add(a: number, b: number): number {\n'
const KEY = 'a-key-for-this-test'

/** Options with which the demo model goes on for thousands of tokens. */
const LONG = { maxTokens: '12000', temperature: '1.2', seed: '1' }

const startServer = runningServers({ speculation: { mode: 'medusa' } })

/** The page, with these fields filled in. */
async function fill(page: Page, fields: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, value] of Object.entries(fields)) {
    const field = page.locator(`#request [name="${name}"]`)
    if (await field.evaluate((element) => element.tagName === 'SELECT')) await field.selectOption(value)
    else await field.fill(value)
  }
}

const generateEnabled = (page: Page) => page.locator('#generate:enabled').waitFor()
const rowOf = (page: Page, run: number) => page.locator(`#runs tr[data-run="${run}"]`)
const answer = (page: Page) => page.locator('#output .answer').last().textContent()
const alertText = (page: Page) => page.locator('#failure').innerText()

async function runWith(page: Page, number: number, fields: Readonly<Record<string, string>>): Promise<void> {
  await generateEnabled(page)
  await fill(page, fields)
  await page.click('#generate')
  await rowOf(page, number).waitFor()
}

/** What the library makes of the same: each token's text with where it came from. */
async function fromLibrary({ engine }: RunningServer, prompt: string, options: GenerateOptionsInput) {
  const tokens: { text: string; step: number; depth: number }[] = []
  const generation = engine.generate(prompt, options)
  for await (const { pieces, step } of generation) {
    pieces.forEach((text, depth) => {
      if (text !== '') tokens.push({ text, step, depth })
    })
  }
  return { tokens, result: await generation }
}

const tokensOn = (page: Page) =>
  page.locator('#output .answer [data-depth]').evaluateAll((spans) =>
    (spans as HTMLElement[]).map(({ textContent, dataset }) => ({
      text: textContent,
      step: Number(dataset['step']),
      depth: Number(dataset['depth']),
    })),
  )

describeInChromium('the playground', () => {
  const open = chromiumPages()

  beforeAll(() => expectCompiled('client', 'server/playground'))

  test('shows the text of the library, token by token, with the step and the depth of each', async () => {
    const running = await startServer()
    const page = await open(running.url)
    // With a tree that does not depend on what steps cost here and now, steps are the same too.
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '200', tree: '16' })
    const { tokens, result } = await fromLibrary(running, PROMPT, { maxTokens: 200, speculation: { tree: 16 } })
    expect(await answer(page)).toBe(result.text)
    expect(await tokensOn(page)).toEqual(tokens)
    expect(Math.max(...tokens.map(({ depth }) => depth))).toBeGreaterThan(1)
  })

  test('each depth has a shade of its own, a bar that grows with it, and text that can be read, in light and in dark', async () => {
    const { url } = await startServer()
    for (const colorScheme of ['light', 'dark'] as const) {
      const page = await open(url, { colorScheme })
      await runWith(page, 1, { prompt: PROMPT, maxTokens: '300', tree: '16' })
      const depths = await page.evaluate(looksOfDepths)
      expect(depths.length).toBeGreaterThan(2)
      expect(new Set(depths.map(({ background }) => background)).size).toBe(depths.length)
      expect(depths.map(({ bar }) => bar)).toEqual(depths.map(({ depth }) => depth))
      for (const { contrast } of depths) expect(contrast).toBeGreaterThan(4.5)
      const luminances = depths.slice(1).map(({ luminance }) => luminance)
      const sorted = luminances.toSorted((a, b) => (colorScheme === 'light' ? b - a : a - b))
      expect(luminances).toEqual(sorted)
    }
  })

  test('dark where the reader wants dark', async () => {
    const { url } = await startServer()
    const luminanceOf = async (colorScheme: 'light' | 'dark') => {
      const page = await open(url, { colorScheme })
      return page.evaluate(() => {
        const [r = 0, g = 0, b = 0] = getComputedStyle(document.documentElement)
          .backgroundColor.match(/\d+/g)!
          .map(Number)
        return (r + g + b) / (3 * 255)
      })
    }
    expect(await luminanceOf('light')).toBeGreaterThan(0.9)
    expect(await luminanceOf('dark')).toBeLessThan(0.15)
  })

  test('the depth can be read as a number, or not be shown, without changing the text', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '100' })
    const text = await answer(page)
    const mark = () =>
      page
        .locator('#output [data-depth="1"]')
        .first()
        .evaluate((token) => ({
          number: getComputedStyle(token, '::after').content,
          shade: getComputedStyle(token).backgroundColor,
        }))
    expect(await mark()).toMatchObject({ number: 'none' })
    await page.check('#shading [value="number"]', { force: true })
    expect(await mark()).toEqual({ number: '"1"', shade: 'rgba(0, 0, 0, 0)' })
    expect(await answer(page)).toBe(text)
    await page.check('#shading [value="none"]', { force: true })
    expect(await mark()).toEqual({ number: 'none', shade: 'rgba(0, 0, 0, 0)' })
  })

  test('a token under the pointer says where it came from', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '60' })
    await page.locator('#output [data-depth="1"]').first().hover()
    expect(await page.locator('#tip').innerText()).toMatch(/^step \d+, depth 1: drafted by Medusa head 1, accepted$/)
    await page.locator('h1').hover()
    expect(await page.locator('#tip').isVisible()).toBe(false)
  })

  test('the figures are those of the result', async () => {
    const running = await startServer()
    const page = await open(running.url)
    await runWith(page, 1, {
      prompt: PROMPT.repeat(60),
      maxTokens: '80',
      policy: 'streaming',
      budget: '256',
      tree: '16',
    })
    const { result } = await fromLibrary(running, PROMPT.repeat(60), {
      maxTokens: 80,
      speculation: { tree: 16 },
      kv: { policy: 'streaming', budget: 256 },
    })
    const { kv, speculation, usage } = result
    expect(kv.keptTokens).toBe(256)
    expect(await page.locator('#cache').innerText()).toContain('kept 256 rows')
    expect(await page.locator('#cache').innerText()).toContain(
      `dropped ${(kv.promptTokens - 256).toLocaleString('en')} rows`,
    )
    expect(await page.locator('#figure-tokens').innerText()).toBe(String(usage.completion))
    expect(await page.locator('#figure-steps').innerText()).toBe(String(speculation.steps))
    expect(await page.locator('#figure-per-step').innerText()).toBe(speculation.tokensPerStep.toFixed(2))
    const bars = await page.locator('#acceptance li').evaluateAll((items) => items.map(({ ariaLabel }) => ariaLabel))
    const offered = speculation.byDepth.filter((one) => one.offered > 0)
    expect(bars).toEqual(
      offered.map((one, i) =>
        expect.stringContaining(`depth ${i + 1}: ${Math.round((100 * one.accepted) / one.offered)} %`),
      ),
    )
    for (const chart of ['rate-chart', 'step-chart']) {
      const painted = await page.locator(`#${chart} canvas`).evaluate((canvas: HTMLCanvasElement) => {
        const { data } = canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height)
        return data.some((value) => value > 0)
      })
      expect(painted, chart).toBe(true)
    }
  })

  test('runs of one prompt are compared: plain and Medusa make the same text, another budget may not', async () => {
    const { url } = await startServer()
    const page = await open(url)
    const prompt = PROMPT.repeat(40)
    await runWith(page, 1, { prompt, maxTokens: '120', mode: 'off' })
    await runWith(page, 2, { mode: 'medusa' })
    const [plain, medusa] = [await rowOf(page, 1).innerText(), await rowOf(page, 2).innerText()]
    expect(plain).toContain('plain')
    expect(plain).toContain('base')
    expect(medusa).toContain('Medusa')
    expect(medusa).toContain('same as base')
    expect(medusa).toMatch(/\d×/)
    await runWith(page, 3, { prompt: 'Something else.' })
    expect(await rowOf(page, 3).innerText()).toContain('base')
    await rowOf(page, 2).locator('input').check()
    expect(await rowOf(page, 1).innerText()).toContain('same as base')
    await rowOf(page, 1).locator('button').click()
    expect(await page.locator('#figure-per-step').innerText()).toBe('1.00')
    expect(await page.locator('#status').innerText()).toContain('Run 1')
  })

  test('Stop ends a generation within a step and keeps what there is', async () => {
    const running = await startServer()
    const page = await open(running.url)
    await generateEnabled(page)
    await fill(page, { prompt: PROMPT, ...LONG })
    await page.click('#generate')
    await page.locator('#output [data-depth]').nth(20).waitFor()
    await page.click('#stop')
    await rowOf(page, 1).waitFor()
    expect(await rowOf(page, 1).innerText()).toContain('aborted')
    expect(await page.locator('#status').innerText()).toContain('stopped')
    expect((await answer(page))!.length).toBeGreaterThan(20)
    await expect.poll(() => running.engine.stats()).toMatchObject({ running: 0, queued: 0 })
  })

  test('has prompts to begin with, one of them long enough that its cache is cut', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await generateEnabled(page)
    const prompt = page.locator('#prompt')
    await page.click('[data-example="story"]')
    expect(await prompt.inputValue()).toMatch(/ and$/)
    await page.click('[data-example="long"]')
    await expect.poll(() => prompt.inputValue()).toContain('class Output')
    await runWith(page, 1, { maxTokens: '8' })
    expect(await page.locator('#cache').innerText()).toContain('kept 2,048 rows')
  })

  test('closing the page ends what runs for it', async () => {
    const running = await startServer()
    const page = await open(running.url)
    await generateEnabled(page)
    await fill(page, { prompt: PROMPT, ...LONG })
    await page.click('#generate')
    await page.locator('#output [data-depth]').nth(5).waitFor()
    expect(running.engine.stats().running).toBe(1)
    await page.close({ runBeforeUnload: false })
    const ended = async () => {
      const metrics = await (await fetch(`${running.url}/metrics`)).text()
      return metrics.split('\n').filter((line) => /^gorgon_requests_total.*finish="/.test(line))
    }
    // A connection that only broke would be waited for, for 30 s.
    await expect.poll(ended, { timeout: 10_000 }).toEqual([expect.stringMatching(/finish="aborted".* 1$/)])
    expect(running.engine.stats().running).toBe(0)
  })

  test('everything works from the keyboard', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await generateEnabled(page)
    const focused = () =>
      page.evaluate(() => {
        const element = document.activeElement as HTMLElement
        const { outlineStyle } = getComputedStyle(element.closest('.choice') ?? element)
        return {
          id: element.id || element.getAttribute('name') || element.textContent,
          isSeen: outlineStyle !== 'none',
        }
      })
    const order: string[] = []
    for (let i = 0; i < 40 && order.at(-1) !== 'output'; i++) {
      await page.keyboard.press('Tab')
      const { id, isSeen } = await focused()
      expect(isSeen, String(id)).toBe(true)
      order.push(String(id))
    }
    expect(order).toEqual([
      'Skip to the output',
      'model',
      'task',
      'prompt',
      'a function',
      'a story',
      'a long program',
      'generate',
      'maxTokens',
      'temperature',
      'topP',
      'seed',
      'stop-strings',
      'mode',
      'tree',
      'policy',
      'budget',
      'shading',
      'output',
    ])
    await page.locator('#prompt').focus()
    await page.keyboard.type('export function ')
    for (let i = 0; i < 5; i++) await page.keyboard.press('Tab')
    await page.keyboard.type('12000')
    await page.keyboard.press('Control+Enter')
    await page.locator('#output [data-depth]').nth(5).waitFor()
    await page.keyboard.press('Escape')
    await rowOf(page, 1).waitFor()
    await page.locator('#output').focus()
    await page.keyboard.press('ArrowRight')
    expect(await page.locator('#token').innerText()).toContain('step 1, depth 0')
    await page.keyboard.press('ArrowRight')
    expect(await page.locator('#token').innerText()).toMatch(/step \d+, depth \d/)
    await page.keyboard.press('ArrowLeft')
    expect(await page.locator('#token').innerText()).toContain('step 1, depth 0')
  })

  test('what happens is said politely, and errors at once', async () => {
    const { url } = await startServer()
    const page = await open(url)
    expect(await page.locator('#status').getAttribute('role')).toBe('status')
    expect(await page.locator('#failure').getAttribute('role')).toBe('alert')
    const unnamed = await page
      .locator('input, select, textarea, button')
      .evaluateAll((elements) =>
        (elements as HTMLInputElement[])
          .filter(
            (element) =>
              !element.labels?.length &&
              !element.ariaLabel &&
              !element.textContent &&
              !element.getAttribute('aria-labelledby'),
          )
          .map(({ outerHTML }) => outerHTML),
      )
    expect(unnamed).toEqual([])
  })

  test("fits a phone's width", async () => {
    const { url } = await startServer()
    const page = await open(url, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true })
    const overflow = () =>
      page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
    await generateEnabled(page)
    expect(await overflow()).toBe(0)
    await page.tap('#options summary')
    await runWith(page, 1, { prompt: 'x'.repeat(300), maxTokens: '64' })
    expect(await overflow()).toBe(0)
    await fill(page, { temperature: '1000', stop: 'y'.repeat(200) })
    await page.tap('#generate')
    await page.locator('#failure:visible').waitFor()
    expect(await overflow()).toBe(0)
  })

  test('moves nothing for readers who want that', async () => {
    const { url } = await startServer()
    const page = await open(url, { reducedMotion: 'reduce' })
    const moving = await page.evaluate(
      () =>
        [...document.querySelectorAll('*')].filter((element) => {
          const { transitionDuration, animationName } = getComputedStyle(element)
          return transitionDuration !== '0s' || animationName !== 'none'
        }).length,
    )
    expect(moving).toBe(0)
  })

  test.each([
    [{ temperature: '1000' }, 'temperature', 'ERR_OPTION'],
    [{ budget: '8', policy: 'h2o' }, 'budget', 'ERR_OPTION'],
    [{ tree: 'oak' }, 'tree', 'ERR_TREE'],
    [{ maxTokens: 'many' }, 'maxTokens', '"many" is not a number'],
  ])('%o: the error names the field and what is allowed', async (fields, name, said) => {
    const { url } = await startServer()
    const page = await open(url)
    await generateEnabled(page)
    await fill(page, { prompt: PROMPT, ...fields })
    await page.click('#generate')
    await page.locator('#failure:visible').waitFor()
    expect(await alertText(page)).toContain(said)
    expect(await page.locator(`#request [name="${name}"]`).getAttribute('aria-invalid')).toBe('true')
    expect(await page.evaluate(() => (document.activeElement as HTMLInputElement).name)).toBe(name)
    await runWith(page, 1, { [name]: '', maxTokens: '8' })
    expect(await page.locator('#failure').isVisible()).toBe(false)
    expect(await page.locator('[aria-invalid="true"]').count()).toBe(0)
  })

  test('an empty prompt is no prompt, and it says so', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await generateEnabled(page)
    await page.click('#generate')
    await page.locator('#failure:visible').waitFor()
    expect(await alertText(page)).toContain('ERR_EMPTY_PROMPT')
    expect(await page.evaluate(() => (document.activeElement as HTMLTextAreaElement).name)).toBe('prompt')
  })

  test('a server with keys asks for one, once for each tab', async () => {
    const { url } = await startServer({ keys: [KEY] })
    const page = await open(url)
    const dialog = page.locator('#key-dialog')
    await dialog.waitFor()
    expect(await alertText(page)).toContain('asks for a key')
    await page.fill('#key', 'another-key-than-that')
    await page.keyboard.press('Enter')
    await expect.poll(() => alertText(page)).toContain('does not know this key')
    await dialog.waitFor()
    await page.fill('#key', KEY)
    await page.click('#key-use')
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '8' })
    expect(await page.locator('#failure').isVisible()).toBe(false)
    await page.reload()
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '8' })
    expect(await dialog.isVisible()).toBe(false)
    expect(
      await page.evaluate((key) => JSON.stringify(localStorage).includes(key) || location.href.includes(key), KEY),
    ).toBe(false)
  })

  test('a chat goes on where it was, with what it said still in the cache, until another is begun', async () => {
    const { url } = await startServer()
    const page = await open(url)
    await generateEnabled(page)
    await page.check('#task [value="chat"]', { force: true })
    await runWith(page, 1, { prompt: 'Count the words of a text.', maxTokens: '40' })
    expect(await page.locator('#prompt').inputValue()).toBe('')
    await runWith(page, 2, { prompt: 'And now the lines.' })
    expect(await page.locator('#output .said').allInnerTexts()).toEqual([
      'Count the words of a text.',
      'And now the lines.',
    ])
    expect(await page.locator('#output .answer').count()).toBe(2)
    const promptTokens = (run: number) => rowOf(page, run).locator('td').nth(3).innerText()
    expect(Number(await promptTokens(2))).toBeGreaterThan(Number(await promptTokens(1)) + 40)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    expect(Number(/^gorgon_cached_tokens_total\{.*\} (\d+)$/m.exec(metrics)?.[1])).toBeGreaterThan(40)
    await page.click('#new-chat')
    expect(await page.locator('#output').innerText()).toBe('')
    await runWith(page, 3, { prompt: 'Count the words of a text.' })
    expect(await promptTokens(3)).toBe(await promptTokens(1))
    expect(await rowOf(page, 3).innerText()).toContain('base')
  })

  test('the queue is shown while there is no place', async () => {
    const running = await startServer()
    const page = await open(running.url)
    const others = Array.from({ length: running.engine.info.limits.maxSequences }, () =>
      running.engine.generate(PROMPT, { maxTokens: 8000, temperature: 1.5, seed: 1, highWaterMark: 1 }),
    )
    for (const other of others) await other[Symbol.asyncIterator]().next()
    await generateEnabled(page)
    await fill(page, { prompt: PROMPT, maxTokens: '8' })
    await page.click('#generate')
    await expect.poll(() => page.locator('#status').innerText()).toMatch(/queue/i)
    for (const other of others) other.abort()
    await rowOf(page, 1).waitFor()
  })

  test('waits for a model that is still loading', async () => {
    const { engine } = await startServer()
    let loaded!: (engine: Engine) => void
    const loading = new Promise<Engine>((resolve) => {
      loaded = resolve
    })
    const { url } = await startServer({ engine: { slow: loading } })
    const page = await open(url)
    await expect.poll(() => page.locator('#connection').innerText()).toContain('loading')
    expect(await page.locator('#generate').isEnabled()).toBe(false)
    loaded(engine)
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '8' })
    expect(await page.locator('#model').inputValue()).toBe('slow')
  })

  test('connects again when the server is back', async () => {
    const first = await startServer()
    // A browser says so when nobody answers, and that is so for a moment.
    const page = await open(first.url, { expected: /ERR_CONNECTION_REFUSED/ })
    await generateEnabled(page)
    await first.close()
    await expect.poll(() => page.locator('#connection').getAttribute('data-state')).not.toBe('open')
    await startServer({ port: first.port })
    await expect.poll(() => page.locator('#connection').getAttribute('data-state'), { timeout: 20_000 }).toBe('open')
    await runWith(page, 1, { prompt: PROMPT, maxTokens: '8' })
  })

  test('a long output stays smooth: what a token costs does not grow with the text before it', async () => {
    const { url } = await startServer()
    const page = await open(url)
    const module = await page.evaluateHandle<OutputModule>("import('/assets/server/playground/output.js')")
    const { first, last, isWhole } = await page.evaluate(writeLongOutput, { module, count: 16_000 })
    expect(isWhole).toBe(true)
    // Milliseconds for 64 tokens, layout included; a few more for what else the machine does.
    expect(last).toBeLessThan(3 * first + 4)
  })
})

/** In the page: what one token of each depth looks like. */
function looksOfDepths() {
  const channel = (value: number) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  const luminance = (colour: string) => {
    const [r = 0, g = 0, b = 0] = colour.match(/[\d.]+/g)!.map((part) => channel(Number(part) / 255))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const panel = getComputedStyle(document.querySelector('.output')!).backgroundColor
  const found: { depth: number; background: string; bar: number; contrast: number; luminance: number }[] = []
  for (let depth = 0; ; depth++) {
    const token = document.querySelector(`#output [data-depth="${depth}"]`)
    if (token === null) return found
    const style = getComputedStyle(token)
    const background = style.backgroundColor === 'rgba(0, 0, 0, 0)' ? panel : style.backgroundColor
    const [light, dark] = [luminance(background), luminance(style.color)].sort((a, b) => b - a) as [number, number]
    const bar = Math.abs(Number(/0px (-?\d+)px 0px 0px inset/.exec(style.boxShadow)?.[1] ?? 0))
    found.push({ depth, background, bar, contrast: (light + 0.05) / (dark + 0.05), luminance: luminance(background) })
  }
}

/** In the page: writes many tokens through the page's own module, and times the first and the last frames. */
async function writeLongOutput({ module, count }: { readonly module: OutputModule; readonly count: number }) {
  const { Output } = module
  const box = document.querySelector<HTMLElement>('#output')!
  const output = new Output(
    box,
    document.querySelector<HTMLElement>('#tip')!,
    document.querySelector<HTMLElement>('#token')!,
  )
  output.begin('prompt', 'prompt')
  const words = [
    'const',
    ' value',
    ' =',
    ' compute',
    '(',
    'input',
    ')',
    ';\n',
    '  return',
    ' value\n',
    '\n  }',
    ' else',
  ]
  const frames: number[] = []
  let text = ''
  for (let written = 0; written < count; ) {
    const pieces = Array.from({ length: 64 }, (_, i) => ({
      text: words[(written + i) % words.length]!,
      step: written,
      depth: i % 5,
    }))
    written += pieces.length
    text += pieces.map((piece) => piece.text).join('')
    const begin = performance.now()
    output.append(pieces)
    output.end()
    // Reading a size makes the browser lay out what was written.
    box.getBoundingClientRect()
    frames.push(performance.now() - begin)
    await new Promise((drawn) => requestAnimationFrame(drawn))
  }
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!
  return {
    first: median(frames.slice(0, 50)),
    last: median(frames.slice(-50)),
    isWhole: box.querySelector('.answer')!.textContent === text,
  }
}
