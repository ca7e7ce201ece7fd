// Trains as the options on its command line say, and prints a line for each step and each checkpoint.
import { trainHeads } from '../../../../heads/index.js'

await trainHeads({
  ...JSON.parse(process.argv[2]!),
  onProgress(event) {
    if (event.phase === 'train') process.stdout.write(`step ${event.done}\n`)
    if (event.phase === 'checkpoint') process.stdout.write(`checkpoint ${event.step}\n`)
  },
}).catch((error) => {
  process.stdout.write(`failed ${error.code}: ${error.message}\n`)
  process.exitCode = 1
})
