// Runs a TypeScript file of the tests as a process of its own, for what may not happen to the test's: flags, limits, exits, crashes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'
import { expect } from 'vitest'
import { packageRoot } from '../../src/native.js'

/** Memory is not what it is otherwise: a sanitizer keeps what was freed, and maps a shadow of all there could be. */
export const isSanitized = /libasan/.test(process.env['LD_PRELOAD'] ?? '')

/** What makes node run TypeScript. */
export const TYPESCRIPT = ['--import', pathToFileURL(join(packageRoot(), 'test', 'support', 'typescript.mjs')).href]

export interface Ended {
  readonly exitCode: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** @param file below test/ */
export async function runProgram(
  file: string,
  argv: readonly string[] = [],
  options: { readonly flags?: readonly string[]; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Ended> {
  const child = spawn(
    process.execPath,
    [...TYPESCRIPT, ...(options.flags ?? []), join(packageRoot(), 'test', file), ...argv],
    { env: { ...process.env, ...options.env }, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const end = () => child.kill('SIGKILL')
  process.once('exit', end)
  const output = Promise.all([text(child.stdout), text(child.stderr)])
  const [exitCode, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  process.off('exit', end)
  const [stdout, stderr] = await output
  return { exitCode, signal, stdout, stderr }
}

/** The JSON a program prints, which must end well and without complaint. */
export async function programResult<T>(...run: Parameters<typeof runProgram>): Promise<T> {
  const { stdout, ...end } = await runProgram(...run)
  expect(end).toEqual({ exitCode: 0, signal: null, stderr: '' })
  return JSON.parse(stdout) as T
}
