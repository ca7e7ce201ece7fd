// Commands, help, and how errors and exit codes reach a user.
import { Writable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { packageManifest } from '../../src/package.js'
import { errorLine, gorgon } from './command.js'

describe('help and version', () => {
  test('--version prints the version of the package', async () => {
    expect(await gorgon(['--version'])).toEqual({ exitCode: 0, stdout: `${packageManifest().version}\n`, stderr: '' })
  })

  test('--help names the commands there are, and none that are not', async () => {
    const { exitCode, stdout, stderr } = await gorgon(['--help'])
    expect(exitCode).toBe(0)
    expect(stderr).toBe('')
    for (const name of ['generate', 'inspect', 'doctor', 'bench', 'serve', 'train', 'demo'])
      expect(stdout).toMatch(new RegExp(`^ {2}${name} `, 'm'))
    expect(stdout).not.toMatch(/^ {2}pull/m)
  })

  test('generate --help names every flag of the contract and has examples', async () => {
    const { exitCode, stdout } = await gorgon(['generate', '--help'])
    expect(exitCode).toBe(0)
    const flags = `--prompt-file --prompt-ids --model --heads --max-tokens --temperature --top-p --top-k --seed --stop --ignore-eos --accept
      --mode --tree --plain --kv --budget --window --pool --pool-size --dump-kept --backend --dtype --weights --threads --device --device-memory --json`
    for (const flag of flags.split(/\s+/)) expect(stdout).toMatch(new RegExp(`^ {2}${flag}\\b`, 'm'))
    expect(stdout).toContain('Examples:')
    expect(stdout).toContain('Exit codes:')
  })
})

describe('bad command lines', () => {
  test.each([
    [['generat', 'x'], /unknown command 'generat' \(Did you mean generate\?\)/],
    [['pull'], /unknown command 'pull'/],
    [['generate', 'x', '--buget', '9'], /unknown option '--buget' \(Did you mean --budget\?\)/],
    [['generate', 'x', 'y'], /too many arguments/],
    [['generate', 'x', '--budget'], /option '--budget <N>' argument missing/],
    [['inspect'], /missing required argument 'DIR'/],
    [['generate', 'x', '--budget', 'many'], /--budget is "many"/],
  ])('%j', async (argv, message) => {
    const { exitCode, stdout, stderr } = await gorgon(argv)
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
    expect(errorLine(stderr)).toMatch(/^gorgon: ERR_OPTION: /)
    expect(errorLine(stderr)).toMatch(message)
    expect(stderr).toMatch(/\nTry: gorgon (generate |inspect )?--help\n$/)
  })

  test.each([
    [[], /no command is given/, /Usage: gorgon \[options\]/],
    [['generate'], /no prompt is given/, /Usage: gorgon generate/],
    [['generate', 'x', '--prompt-file', 'y'], /PROMPT and --prompt-file are given together/, /Usage: gorgon generate/],
  ])('%j gets the help', async (argv, message, help) => {
    const { exitCode, stdout, stderr } = await gorgon(argv)
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' })
    expect(errorLine(stderr)).toMatch(message)
    expect(stderr).toMatch(help)
  })
})

describe('errors', () => {
  test('input at fault: code, message, exit code 2, no help, no stack', async () => {
    const { exitCode, stdout, stderr } = await gorgon(['generate', 'x', '--model', '/nowhere/at/all'])
    expect(exitCode).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toMatch(/^gorgon: ERR_MODEL_NOT_FOUND: .*\/nowhere\/at\/all/)
    expect(stderr).not.toContain('Usage')
    expect(stderr).not.toMatch(/^ +at /m)
  })

  test('GORGON_DEBUG adds the stack', async () => {
    const { stderr } = await gorgon(['inspect', '/nowhere'], { env: { GORGON_DEBUG: '1' } })
    expect(errorLine(stderr)).toContain('ERR_MODEL_NOT_FOUND')
    expect(stderr).toMatch(/^ +at /m)
  })

  test('a reader who leaves is no error', async () => {
    const closed = new Writable({
      write(_chunk, _encoding, done) {
        done(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }))
      },
    })
    const { exitCode, stderr } = await gorgon(['inspect', 'models/demo'], { stdout: closed })
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' })
  })

  test('a standard output that fails otherwise is one', async () => {
    const full = new Writable({
      write(_chunk, _encoding, done) {
        done(Object.assign(new Error('write ENOSPC'), { code: 'ENOSPC', syscall: 'write' }))
      },
    })
    const { exitCode, stderr } = await gorgon(['inspect', 'models/demo'], { stdout: full })
    expect(exitCode).toBe(1)
    expect(errorLine(stderr)).toBe('gorgon: ENOSPC: write ENOSPC.')
  })
})
