// Makes a temporary folder with a file in it, says where, and waits to be interrupted.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { withTemporaryFolder } from '../../../bench/support/temporary-folder.js'

await withTemporaryFolder('gorgon-test-interrupted-', {}, async (dir) => {
  writeFileSync(join(dir, 'weights'), 'some')
  process.stdout.write(`${dir}\n`)
  setInterval(() => undefined, 1000)
  await new Promise(() => undefined)
})
