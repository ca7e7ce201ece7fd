#!/usr/bin/env node
// The process around the commands: its streams, its signals, its exit code.
import { constants } from 'node:os'
import type { Io } from './io.js'
import { INTERRUPTED, run } from './program.js'

const interruption = new AbortController()
let byInterruption = INTERRUPTED

function interrupt(signal: 'SIGINT' | 'SIGTERM'): void {
  const code = 128 + constants.signals[signal]
  // The first one lets the command close what it opened; whoever asks twice does not want to wait.
  if (interruption.signal.aborted) process.exit(code)
  byInterruption = code
  interruption.abort()
}

const onInterrupt = (): void => interrupt('SIGINT')
const onTerminate = (): void => interrupt('SIGTERM')
process.on('SIGINT', onInterrupt)
process.on('SIGTERM', onTerminate)

const io: Io = {
  get stdin() {
    return process.stdin
  },
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  signal: interruption.signal,
}

const code = await run(process.argv.slice(2), io)
process.exitCode = code === INTERRUPTED ? byInterruption : code
process.off('SIGINT', onInterrupt)
process.off('SIGTERM', onTerminate)
