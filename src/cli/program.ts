// The commands, their help, and the one place where an error becomes a message and an exit code.
import { Command, CommanderError, Option } from 'commander'
import { type ErrorCode, isGorgonError, packageManifest } from '../index.js'
import { LOG_LEVELS } from '../server/options.js'
import { collect, limitOption, optionsOf, UsageError } from './args.js'
import { bench, benchOptions } from './bench.js'
import { demo } from './demo.js'
import { doctor } from './doctor.js'
import { generate } from './generate.js'
import { inspectFolder } from './inspect.js'
import { type Io, ReaderGone, write } from './io.js'

/** Exit codes: done; anything else; bad arguments or input; interrupted. */
const DONE = 0
const FAILED = 1
const BAD_INPUT = 2
export const INTERRUPTED = 130

/** Which codes the user can mend by giving something else. */
const EXIT_CODES: Readonly<Record<ErrorCode, typeof FAILED | typeof BAD_INPUT>> = {
  ERR_ADDON_MISSING: FAILED,
  ERR_ARGUMENT: FAILED,
  ERR_BODY: FAILED,
  ERR_BUSY: FAILED,
  ERR_CANCELLED: FAILED,
  ERR_CHAT_TEMPLATE: BAD_INPUT,
  ERR_CHECKPOINT: BAD_INPUT,
  ERR_CLOSED: FAILED,
  ERR_CONNECTIONS: FAILED,
  ERR_CONSUMED: FAILED,
  ERR_CONTEXT_OVERFLOW: BAD_INPUT,
  ERR_DATA: BAD_INPUT,
  ERR_DEVICE: BAD_INPUT,
  ERR_DIVERGED: FAILED,
  ERR_DRAINING: FAILED,
  ERR_DTYPE: FAILED,
  ERR_EMPTY_PROMPT: BAD_INPUT,
  ERR_FILE: BAD_INPUT,
  ERR_FORBIDDEN: FAILED,
  ERR_HEADS_FORMAT: BAD_INPUT,
  ERR_HEADS_MISMATCH: BAD_INPUT,
  ERR_INTERNAL: FAILED,
  ERR_IO: FAILED,
  ERR_LISTEN: BAD_INPUT,
  ERR_LOAD_FAILED: FAILED,
  ERR_LOADING: FAILED,
  ERR_METHOD: FAILED,
  ERR_MODEL_CONFIG: BAD_INPUT,
  ERR_MODEL_NOT_FOUND: BAD_INPUT,
  ERR_MODEL_UNKNOWN: FAILED,
  ERR_OPTION: BAD_INPUT,
  ERR_OUT_OF_MEMORY: FAILED,
  ERR_QUEUE_FULL: FAILED,
  ERR_RATE_LIMIT: FAILED,
  ERR_REQUEST_TIMEOUT: FAILED,
  ERR_RESPONSE_NOT_FOUND: FAILED,
  ERR_ROUTE: FAILED,
  ERR_SAFETENSORS: BAD_INPUT,
  ERR_SESSION_NOT_FOUND: FAILED,
  ERR_SHAPE: FAILED,
  ERR_STALLED: FAILED,
  ERR_STATE: FAILED,
  ERR_TENSOR: BAD_INPUT,
  ERR_TOKEN_RANGE: BAD_INPUT,
  ERR_TOKENIZER: BAD_INPUT,
  ERR_TOO_LARGE: FAILED,
  ERR_TREE: BAD_INPUT,
  ERR_UNAUTHORIZED: FAILED,
  ERR_UNSUPPORTED: BAD_INPUT,
  ERR_WRITE: FAILED,
}

const GENERATE_EXAMPLES = `
Examples:
  gorgon generate 'export function add('
  gorgon generate --prompt-file long.ts --budget 1024 --max-tokens 200
  cat notes.md | gorgon generate --prompt-file - --model ./my-model --heads ./my-heads
  gorgon generate 'const x =' --temperature 0.7 --seed 1 --json
  gorgon generate 'const x =' --plain --kv full        # no speculation, no compression

Text goes to standard output, everything else to standard error.
Exit codes: 0 done, 2 bad arguments or input, 1 anything else, 130 interrupted.`

const BENCH_EXAMPLES = `
Examples:
  gorgon bench                                              # the demo model: about a minute on a fast machine
  gorgon bench --model ./my-model --heads ./my-heads --prompt-file my-notes.md
  gorgon bench --prompt-lengths 1000,8000 --budget 512 --tokens 64 --rounds 5 --json

Arms take turns, round by round, and Medusa's tokens are compared with plain decoding's before anything is printed.
Interrupted, it prints what is done.`

const TRAIN_EXAMPLES = `
Examples:
  gorgon train --model ./my-model --data ./texts --out ./my-heads
  gorgon train --model ./my-model --data chats.jsonl --field reply --out ./my-heads --private --epochs 2
  gorgon train --self-distill 500000 --data prompts.jsonl --out ./heads    # on what the model itself writes
  gorgon train --self-distill 500000 --data prompts.jsonl --out ./heads --resume

The model is not changed. --out gets the heads (medusa_lm_head.safetensors, config.json), accuracy.json, training.jsonl and its curves
(training.svg), and a checkpoint: interrupted or killed, the same command with --resume goes on to the same numbers.`

const CONVERT_EXAMPLES = `
Examples:
  gorgon heads convert medusa_lm_head.pt --to A --out ./my-heads
  gorgon heads convert ./my-heads --to E --out ./for-vllm --model ./my-model
  gorgon heads convert ./private-heads --to B --out ./shared-heads --model ./my-model
  gorgon heads convert ./fused-model --to A --out ./its-heads --dtype bf16

A has a projection to the vocabulary for each head (FasterDecoding, TGI), B projects through the model's lm_head (TGI), E is vLLM's.
Read are these, heads fused into a model's own files, and what torch.save wrote (.pt, .pth, .bin), of which nothing is run.
heads/FORMAT.md has the layouts on one page.`

const TREE_EXAMPLES = `
Examples:
  gorgon tree --data docs src                               # the demo model's heads; prints what it finds
  gorgon tree --model ./my-model --heads ./my-heads --data answers.jsonl
  gorgon tree --model ./my-model --heads ./my-heads --data answers.jsonl --nodes 16 --out ./tree-16
  gorgon generate --model ./my-model --heads ./my-heads --tree ./tree-16/tree.json 'const x ='

The model continues the beginnings of texts, and each head's drafts are compared with what came. A tree of drafts is grown from
that, its size chosen by what steps take on this machine, and its promise checked on texts held out.
It writes accuracy.json, from which the engine takes its trees, tree.json for --tree, and tree.svg: into --out, or else into the
folder that --heads names.`

const SERVE_EXAMPLES = `
Examples:
  gorgon serve                                              # the demo model on http://127.0.0.1:8080
  gorgon serve --model ./my-model --heads ./my-heads --port 9000
  gorgon serve --host 0.0.0.0 --api-key-file keys.txt --origin https://app.example
  GORGON_API_KEYS=some-long-secret gorgon serve --host 0.0.0.0 --max-sequences 32 --drain 60
  gorgon serve --max-context 8192 --limit choices=16 --limit idleMs=600000

It listens at once, and takes requests when the model is there: GET /health/ready says when.
SIGTERM or Ctrl-C takes no more requests, lets what runs finish, and ends it with exit code 0; a second one ends it at once.
To a terminal it speaks in words, else in JSON lines, all on standard error. Nothing of a request is logged unless asked for.
A keys' file has a line KEY, or NAME KEY, for each; # begins a comment. A name is who holds the key, to limits, stored responses and
the log, and is given once. docs/scale-out.md is about more than one server.`

function createProgram(argv: readonly string[], io: Io, finish: (exitCode: number) => void): Command {
  const program = new Command('gorgon')
    .description('Fast long-prompt text generation: Medusa tree speculation over a SnapKV-compressed cache.')
    .version(packageManifest().version, '--version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand(false)
    .exitOverride()
    .configureHelp({ helpWidth: 110 })
    // Errors are reported by run(), in one form for all.
    .configureOutput({ writeOut: (text) => void io.stdout.write(text), writeErr: () => undefined })
    .addHelpText('after', '\nStart with "gorgon demo"; "gorgon COMMAND --help" says more.')

  const generateCommand = program
    .command('generate')
    .description('continue a prompt')
    .argument('[PROMPT]', 'the text to continue')
    .optionsGroup('Input:')
    .option('--prompt-file <F>', 'read the prompt from a file; - is standard input')
    .option('--prompt-ids <F.json>', 'a JSON array of token ids, used as they are')
  for (const option of [...optionsOf('load'), ...optionsOf('generate')]) generateCommand.addOption(option)
  generateCommand
    .optionsGroup('Decoding:')
    .option('--ignore-eos', 'go on after an end-of-sequence token')
    .optionsGroup('Speculation:')
    .addOption(new Option('--plain', 'no speculation: one token per step').conflicts('mode'))
    .optionsGroup('KV cache:')
    .option('--dump-kept <F.json>', 'write the prompt rows kept, by layer and KV head, window left out')
    .optionsGroup('Output:')
    .option('--json', 'print one JSON object instead of text')
    .addHelpText('after', GENERATE_EXAMPLES)
    .action((prompt: string | undefined, given) => generate({ ...given, prompt }, io))

  program
    .command('inspect')
    .description('say what a model folder holds, without loading its weights')
    .argument('<DIR>', 'model folder')
    .option('--heads <DIR|none>', 'Medusa heads to check against it; those in the folder when left out')
    .option('--json', 'print one JSON object instead of text')
    .action(async (folder: string, given) => finish((await inspectFolder(folder, given, io)) ? DONE : BAD_INPUT))

  program
    .command('doctor')
    .description('say what is here, what is missing, and what to do about it')
    .option('--json', 'print one JSON object instead of text')
    .action(async (given) => finish((await doctor(given, io)) ? DONE : FAILED))

  const benchCommand = program
    .command('bench')
    .description('measure plain decoding, Medusa, SnapKV and both, here and now')
  for (const option of benchOptions()) benchCommand.addOption(option)
  benchCommand
    .optionsGroup('Output:')
    .option('--json', 'print every run as one JSON object instead of tables')
    .option('--out <F.json>', 'also write that object to a file')
    .addHelpText('after', BENCH_EXAMPLES)
    .action((given) => bench(given, ['gorgon', ...argv].join(' '), io))

  const serveCommand = program
    .command('serve')
    .description('put a model behind WebSocket and OpenAI-compatible HTTP, for many clients at once')
  for (const target of ['server', 'load', 'serving'] as const) {
    for (const option of optionsOf(target)) serveCommand.addOption(option)
  }
  serveCommand
    .addOption(limitOption())
    .optionsGroup('Server:')
    .option('--name <NAME>', "what requests call the model; its folder's name when left out")
    .option('--no-playground', 'nothing at /')
    .optionsGroup('Keys:')
    .option('--api-key-file <F>', 'keys of which each request must carry one')
    .option('--api-key <K>', 'one such key; can be given several times, and be seen by others on this machine', collect)
    .option('--allow-public', 'serve anybody who can connect, beyond this machine too, without keys')
    .optionsGroup('Log:')
    .addOption(new Option('--log-level <LEVEL>', 'the least that is logged').choices(LOG_LEVELS).default('info'))
    .option('--log-content', 'log prompts and texts too')
    .addHelpText('after', SERVE_EXAMPLES)
    .action(async (given) => {
      // Loaded when asked for: the other commands need nothing of what a server is made of.
      const { serve } = await import('./serve.js')
      await serve(given, io)
      // However it was stopped, that is its ordinary end.
      finish(DONE)
    })

  const trainCommand = program.command('train').description('make Medusa heads for a model, from text')
  for (const option of optionsOf('train')) trainCommand.addOption(option)
  trainCommand
    .optionsGroup('Output:')
    .option('--json', 'print one JSON object instead of tables')
    .addHelpText('after', TRAIN_EXAMPLES)
    .action(async (given) => {
      const { train } = await import('./train.js')
      await train(given, io)
    })

  program
    .command('heads')
    .description('Medusa heads as files')
    .helpCommand(false)
    .action(() => {
      throw new UsageError('no command is given.', { isLost: true })
    })
    .command('convert')
    .description('write Medusa heads in another published layout')
    .argument('<SOURCE>', 'folder or file of heads')
    .addOption(new Option('--to <A|B|E>', 'layout to write').choices(['A', 'B', 'E']).makeOptionMandatory())
    .requiredOption('--out <DIR>', 'folder to write to; made when it is not there')
    .option('--model <DIR>', "the heads' model, whose lm_head B leaves out and A and E may need")
    .addOption(
      new Option('--dtype <auto|f32|bf16|f16>', 'of weights; auto is as stored')
        .choices(['auto', 'f32', 'bf16', 'f16'])
        .default('auto'),
    )
    .option('--force', 'replace heads that are in the folder already')
    .option('--json', 'print one JSON object instead of text')
    .addHelpText('after', CONVERT_EXAMPLES)
    .action(async (source: string, given) => {
      const { convert } = await import('./heads.js')
      await convert(source, given, io)
    })

  const treeCommand = program
    .command('tree')
    .description('measure Medusa heads, and grow the tree of drafts that suits them and this machine')
  for (const option of optionsOf('calibrate')) treeCommand.addOption(option)
  treeCommand
    .optionsGroup('Output:')
    .option('--out <DIR>', 'folder for accuracy.json, tree.json and tree.svg; that of --heads when left out')
    .option('--json', 'print one JSON object instead of tables')
    .addHelpText('after', TREE_EXAMPLES)
    .action(async (given) => {
      const { tree } = await import('./tree.js')
      await tree(given, io)
    })

  const demoCommand = program.command('demo').description('compare plain decoding with Medusa and SnapKV, here and now')
  const demoFlags = ['--backend', '--threads', '--device', '--device-memory', '--temperature']
  for (const option of [...optionsOf('load'), ...optionsOf('generate')]) {
    if (demoFlags.includes(option.long!)) demoCommand.addOption(option)
  }
  demoCommand.action(async (given) => finish((await demo(given, io)) ? DONE : FAILED))

  return program
}

/** Runs one command line (without `node` and the script) and gives its exit code. Everything it prints goes through `io`. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  // A stream that breaks is seen by whoever writes; without a listener, now or later, it would end the process.
  for (const stream of [io.stdout, io.stderr]) stream.on('error', () => undefined)
  let exitCode: number | undefined
  const program = createProgram(argv, io, (code) => {
    exitCode = code
  })
  try {
    if (argv.length === 0) throw new UsageError('no command is given.', { isLost: true })
    await program.parseAsync(argv, { from: 'user' })
    return exitCode ?? (io.signal.aborted ? INTERRUPTED : DONE)
  } catch (error) {
    return await report(error, program, argv, io)
  }
}

async function report(error: unknown, program: Command, argv: readonly string[], io: Io): Promise<number> {
  if (io.signal.aborted) return INTERRUPTED
  if (error instanceof ReaderGone) return DONE
  if (error instanceof CommanderError && error.exitCode === 0) return DONE

  const { code, message } = describe(error)
  let text = `gorgon: ${code}: ${message}\n`
  if (io.env['GORGON_DEBUG']) text += `${stackOf(error)}\n`
  if (error instanceof CommanderError || error instanceof UsageError) {
    const { command, path } = commandOf(program, argv)
    const isLost = error instanceof UsageError && error.isLost
    text += isLost ? `\n${command.helpInformation()}` : `Try: ${path} --help\n`
  }
  await write(io.stderr, text).catch(() => undefined)
  return (EXIT_CODES as Readonly<Record<string, number>>)[code] ?? FAILED
}

/** The command that arguments begin with, and how it is called. */
function commandOf(program: Command, argv: readonly string[]): { command: Command; path: string } {
  let command = program
  let path = program.name()
  for (const word of argv) {
    const inner = command.commands.find((one) => one.name() === word)
    if (!inner) break
    command = inner
    path += ` ${word}`
  }
  return { command, path }
}

function describe(error: unknown): { code: string; message: string } {
  if (isGorgonError(error)) return error
  if (error instanceof CommanderError) {
    // `error: unknown option '--x'`, a line break, `(Did you mean --y?)`.
    return { code: 'ERR_OPTION', message: error.message.replace(/^error: /, '').replace(/\n/g, ' ') }
  }
  // The system's refusals, such as a full disk, have a code of their own and are nobody's bug.
  const { code, syscall, message = String(error) } = (error ?? {}) as Partial<NodeJS.ErrnoException>
  if (code && syscall) return { code, message: `${message}.` }
  return {
    code: 'ERR_INTERNAL',
    message: `${message}. This is a bug in gorgon: please report it (GORGON_DEBUG=1 adds a stack).`,
  }
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const own = error.stack ?? error.message
  return error.cause === undefined ? own : `${own}\ncaused by: ${stackOf(error.cause)}`
}
