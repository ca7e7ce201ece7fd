// Makes docs/playground.png: the playground after runs with the whole cache, with SnapKV, and with Medusa too, over the demo model, as built.
//
//   npm run build && node scripts/playground-screenshot.mjs [FILE]
import { chromium } from 'playwright-core'
import { loadEngine } from '../dist/src/index.js'
import { createServer } from '../dist/src/server/index.js'

const [path = 'docs/playground.png'] = process.argv.slice(2)
const engine = await loadEngine({ model: 'demo' })
const server = createServer({ engine, port: 0 })
const { url } = await server.listen()
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
})
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } })
  await page.goto(url)
  await page.locator('#generate:enabled').waitFor()
  await page.click('[data-example="long"]')
  await page.waitForFunction(() => document.querySelector('#prompt').value !== '')
  await page.fill('#maxTokens', '320')
  await page.fill('#temperature', '0.6')
  await page.fill('#seed', '1')
  await page.fill('#tree', '16')
  const runs = [
    { mode: 'off', policy: 'full' },
    { mode: 'off', policy: '' },
    { mode: 'medusa', policy: '' },
  ]
  for (const [i, { mode, policy }] of runs.entries()) {
    await page.selectOption('#mode', mode)
    await page.selectOption('#policy', policy)
    await page.click('#generate')
    await page.locator(`#runs tr[data-run="${i + 1}"]`).waitFor({ timeout: 120_000 })
  }
  await page.locator('#runs input').nth(1).check()
  await page.locator('h1').hover()
  await page.screenshot({ path })
} finally {
  await browser.close()
  await server.close({ drainMs: 0 })
  await engine.close()
}
