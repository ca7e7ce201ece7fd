// The balancers of docs/scale-out, as documented but for their addresses, before replicas on this machine.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'

export interface Balancer {
  readonly url: string
  /** What HAProxy thinks of a replica, by its name in the file: `UP`, `DOWN`, and words about changes between. */
  stateOf(server: string): Promise<string>
  stop(): Promise<void>
}

/** Why its tests cannot run here; null when they can. */
export function whyNot(program: 'haproxy' | 'nginx'): string | null {
  try {
    execFileSync(program, ['-v'], { stdio: 'ignore' })
    return null
  } catch {
    return `${program} is not installed (apt-get install ${program})`
  }
}

/** What stands in the files. */
const PLACES = ['10.0.0.11:8080', '10.0.0.12:8080']

/** @param replicas URLs of two. */
export async function startHaproxy(replicas: readonly [string, string]): Promise<Balancer> {
  return start(async (folder, port) => {
    const config = await documented('haproxy.cfg', replicas, [['bind :8080', `bind 127.0.0.1:${port}`]])
    const control = join(folder, 'control')
    await writeFile(join(folder, 'documented.cfg'), config)
    // A socket to ask, and nobody to write to: nothing of what is documented is changed by it.
    await writeFile(join(folder, 'test.cfg'), `global\n    stats socket ${control} mode 600\n`)
    const child = spawn('haproxy', ['-f', join(folder, 'documented.cfg'), '-f', join(folder, 'test.cfg')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const stateOf = async (server: string): Promise<string> => {
      const rows = (await ask(control, 'show stat')).split('\n').map((line) => line.split(','))
      const column = rows[0]!.indexOf('status')
      return rows.find(([proxy, name]) => proxy === 'replicas' && name === server)?.[column] ?? ''
    }
    return { child, stateOf }
  })
}

/** @param replicas URLs of two. */
export async function startNginx(replicas: readonly [string, string]): Promise<Balancer> {
  return start(async (folder, port) => {
    const config = await documented('nginx.conf', replicas, [['listen 8080', `listen 127.0.0.1:${port}`]])
    const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (name) => `${name}_temp_path ${folder}/${name};`,
    )
    await writeFile(
      join(folder, 'nginx.conf'),
      `daemon off; pid ${folder}/pid; error_log stderr;\nevents {}\nhttp {\naccess_log off; ${places.join(' ')}\n${config}}\n`,
    )
    const child = spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    return { child, stateOf: () => Promise.reject(new Error('nginx does not say what it thinks of its servers')) }
  })
}

/** A file of docs/scale-out with these replacements, each of which must be there. */
async function documented(
  name: string,
  replicas: readonly string[],
  replacements: readonly (readonly [string, string])[],
): Promise<string> {
  let config = await readFile(join('docs', 'scale-out', name), 'utf8')
  const servers = PLACES.map((place, i) => [place, new URL(replicas[i]!).host] as const)
  for (const [from, to] of [...replacements, ...servers]) {
    if (!config.includes(from)) throw new Error(`${name} has no "${from}" to replace`)
    config = config.replace(from, to)
  }
  return config
}

type Launch = (folder: string, port: number) => Promise<{ child: ChildProcess; stateOf: Balancer['stateOf'] }>

const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGTERM')
})

async function start(launch: Launch): Promise<Balancer> {
  const folder = await mkdtemp(join(tmpdir(), 'gorgon-balancer-'))
  // Neither takes port 0, and a free port may be taken by somebody else a moment later.
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const { child, stateOf } = await launch(folder, port)
    running.add(child)
    const ended = once(child, 'exit')
    const complaints = text(child.stderr!)
    const stop = async (): Promise<void> => {
      // Not SIGKILL: nginx has workers, which its master then ends.
      child.kill('SIGTERM')
      await ended
      running.delete(child)
      await rm(folder, { recursive: true, force: true })
    }
    if (await answers(port, child)) return { url: `http://127.0.0.1:${port}`, stateOf, stop }
    if (attempt === 3) {
      await stop()
      throw new Error(`the balancer did not start:\n${await complaints}`)
    }
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as { port: number }
  probe.close()
  await once(probe, 'close')
  return port
}

/** Whether it takes connections before it ends. */
async function answers(port: number, child: ChildProcess): Promise<boolean> {
  while (child.exitCode === null && child.signalCode === null) {
    const isThere = await new Promise<boolean>((resolve) => {
      const socket = createConnection(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false))
      socket.on('connect', () => socket.destroy())
    })
    if (isThere) return true
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return false
}

function ask(path: string, command: string): Promise<string> {
  const socket = createConnection(path)
  socket.end(`${command}\n`)
  return text(socket)
}
