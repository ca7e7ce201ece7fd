// An arm without an engine: counts up from the prompt's length, or does what its setup says.
import { serveArm } from '../../../bench/peers/arm-process.js'
import { GorgonError } from '../../../src/errors.js'

export interface CountingSetup {
  readonly fails?: 'loading' | 'running' | 'dying' | 'short'
}

serveArm<CountingSetup, { readonly pid: number }>(async ({ fails }) => {
  if (fails === 'loading') throw new GorgonError('ERR_OPTION', 'It cannot be loaded.')
  let prepared = 0
  return {
    info: { pid: process.pid },
    prepare: async ({ promptTokens, tokens }) => {
      prepared = promptTokens + tokens
    },
    async *generate({ prompt, tokens }) {
      if (fails === 'running') throw new Error(`prepared for ${prepared}`)
      if (fails === 'dying') process.exit(7)
      for (let i = fails === 'short' ? 1 : 0; i < tokens; i++) yield [prompt.length + i]
    },
  }
})
