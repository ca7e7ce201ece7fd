// Starts programs of this project as processes of their own, compiled if this file is.
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const isCompiled = import.meta.url.endsWith('.js')

/** What node needs to run programs of this kind: under test they are TypeScript, which the tests' own loader reads. */
export const nodeFlags = (): string[] =>
  isCompiled ? [] : ['--import', new URL('../../test/support/typescript.mjs', import.meta.url).href]

/** @param flags of node. */
export function forkProgram(name: string, argv: readonly string[] = [], flags: readonly string[] = []): ChildProcess {
  const file = fileURLToPath(new URL(`./${name}${isCompiled ? '.js' : '.ts'}`, import.meta.url))
  return fork(file, argv, { execArgv: [...nodeFlags(), ...flags], serialization: 'advanced' })
}
