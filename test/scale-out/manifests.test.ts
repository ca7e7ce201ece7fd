// What docs/scale-out says to others is so: paths, ports, flags, times and metrics of its files.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { gorgon } from '../cli/command.js'
import { whyNot } from '../support/balancer.js'
import { runningServers } from '../support/server.js'

const FOLDER = join('docs', 'scale-out', 'kubernetes')

// biome-ignore lint/suspicious/noExplicitAny: what Kubernetes takes has no types here
type Manifest = any

function manifestsOf(file: string): Manifest[] {
  const documents = parseAllDocuments(readFileSync(join(FOLDER, file), 'utf8'))
  expect(documents.flatMap(({ errors, warnings }) => [...errors, ...warnings])).toEqual([])
  return documents.map((document) => document.toJS())
}

const files = readdirSync(FOLDER)
const all = files.flatMap(manifestsOf)
const ofKind = (kind: string): Manifest => all.find((one) => one.kind === kind)
const deployment = ofKind('Deployment')
const pod = deployment.spec.template.spec
const container = pod.containers[0]
const args: string[] = container.args
const flagValue = (flag: string): string => args.find((arg) => arg.startsWith(`${flag}=`))!.slice(flag.length + 1)

const startServer = runningServers()

describe('the deployment', () => {
  test('starts the server with flags that it has', async () => {
    const { stdout } = await gorgon(['serve', '--help'])
    const known = [...stdout.matchAll(/^ {2}(--[a-z-]+)/gm)].map((match) => match[1])
    const [command, ...flags] = args
    expect(command).toBe('serve')
    expect(flags.map((flag) => flag.split('=')[0]).filter((flag) => !known.includes(flag))).toEqual([])
    // Everything but files that are not here is taken.
    const here = flags.filter((flag) => !/^--(model|api-key-file)=/.test(flag))
    const { exitCode, stderr } = await gorgon(['serve', ...here, '--port=0', '--host=127.0.0.1'], {
      signal: AbortSignal.abort(),
    })
    expect({ exitCode, stderr: stderr.match(/ERR_\w+/)?.[0] }).toEqual({ exitCode: 0, stderr: undefined })
  })

  test('probes paths that the server answers without a key, at its port', async () => {
    const { url } = await startServer({ keys: ['a-key-of-the-server'] })
    const port = container.ports.find((one: Manifest) => one.containerPort === Number(flagValue('--port')))
    for (const probe of [container.livenessProbe, container.readinessProbe]) {
      expect(probe.httpGet.port).toBe(port.name)
      expect((await fetch(`${url}${probe.httpGet.path}`)).status).toBe(200)
    }
    expect(container.readinessProbe.httpGet.path).toBe('/health/ready')
    // A liveness probe that fails while a model loads, or while a replica drains, would kill it.
    expect(container.livenessProbe.httpGet.path).toBe('/health/live')
  })

  test('gives a replica time to drain', () => {
    const pause = Number(container.lifecycle.preStop.exec.command[1])
    const drain = Number(flagValue('--drain'))
    expect(container.lifecycle.preStop.exec.command[0]).toBe('sleep')
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(pause + drain + 5)
    // Until the probe has failed, whoever asks by it sends work.
    const { periodSeconds, failureThreshold } = container.readinessProbe
    expect(pause).toBeGreaterThan(periodSeconds * failureThreshold)
  })

  test('mounts what it uses', () => {
    const mounts = container.volumeMounts.map((one: Manifest) => one.mountPath)
    for (const flag of ['--model', '--api-key-file']) {
      expect(
        mounts.some((path: string) => flagValue(flag).startsWith(`${path}/`)),
        flag,
      ).toBe(true)
    }
    const volumes = pod.volumes.map((one: Manifest) => one.name)
    expect(container.volumeMounts.map((one: Manifest) => one.name).sort()).toEqual(volumes.sort())
    expect(readFileSync('docs/scale-out/Dockerfile', 'utf8')).toContain('GORGON_CACHE=/var/cache/gorgon')
    expect(mounts).toContain('/var/cache/gorgon')
  })
})

test('labels, names and ports lead from one manifest to the next', () => {
  const labels = deployment.spec.template.metadata.labels
  expect(deployment.spec.selector.matchLabels).toEqual(labels)
  const service = ofKind('Service')
  expect(service.spec.selector).toEqual(labels)
  const names = container.ports.map((one: Manifest) => one.name)
  for (const port of service.spec.ports) expect(names).toContain(port.targetPort)
  expect(ofKind('PodDisruptionBudget').spec.selector.matchLabels).toEqual(labels)
  expect(ofKind('NetworkPolicy').spec.podSelector.matchLabels).toEqual(labels)
  expect(ofKind('NetworkPolicy').spec.ingress[0].ports).toEqual(names.map((port: string) => ({ port })))
  const { scaleTargetRef } = ofKind('HorizontalPodAutoscaler').spec
  expect(scaleTargetRef).toEqual({
    apiVersion: deployment.apiVersion,
    kind: deployment.kind,
    name: deployment.metadata.name,
  })
  expect(ofKind('ServiceMonitor').spec.selector.matchLabels).toEqual(service.metadata.labels)
  expect(service.spec.ports.map((one: Manifest) => one.name)).toContain(ofKind('ServiceMonitor').spec.endpoints[0].port)
})

test('the kustomization has every manifest, and only such', () => {
  const { resources } = manifestsOf('kustomization.yaml')[0]
  expect(resources.filter((file: string) => !existsSync(join(FOLDER, file)))).toEqual([])
  const manifests = files.filter((file) => file !== 'kustomization.yaml' && manifestsOf(file).every(({ kind }) => kind))
  expect(resources.toSorted()).toEqual(manifests.toSorted())
})

describe('the autoscaler', () => {
  const metrics: string[] = ofKind('HorizontalPodAutoscaler').spec.metrics.map((one: Manifest) => one.pods.metric.name)

  test('goes by gauges that a server has from its first moment', async () => {
    const { url } = await startServer()
    const text = await (await fetch(`${url}${ofKind('ServiceMonitor').spec.endpoints[0].path}`)).text()
    expect(metrics.length).toBeGreaterThan(0)
    for (const name of metrics) {
      expect(text).toContain(`# TYPE ${name} gauge\n`)
      expect(text).toMatch(new RegExp(`^${name}\\{model="demo"\\} 0$`, 'm'))
    }
  })

  test('is told of each by the adapter', () => {
    const [{ seriesQuery }] = manifestsOf('prometheus-adapter.yaml')[0].rules.custom
    const named = new RegExp(`^${/__name__=~"([^"]+)"/.exec(seriesQuery)![1]}$`)
    for (const name of metrics) expect(name).toMatch(named)
  })

  test('adds a replica before the places of one are taken', () => {
    const running = ofKind('HorizontalPodAutoscaler').spec.metrics.find(
      (one: Manifest) => one.pods.metric.name === 'gorgon_running',
    )
    expect(Number(running.pods.target.averageValue)).toBeLessThan(Number(flagValue('--max-sequences')))
  })
})

test('the image copies no build of this machine, and starts what there is', () => {
  const dockerfile = readFileSync('docs/scale-out/Dockerfile', 'utf8')
  const { bin } = JSON.parse(readFileSync('package.json', 'utf8'))
  expect(dockerfile).toContain(`ENTRYPOINT ["node", "/app/node_modules/gorgon/${bin.gorgon}"]`)
  const ignored = readFileSync('docs/scale-out/Dockerfile.dockerignore', 'utf8').split('\n')
  for (const path of ['node_modules', 'build*', 'dist', '.git']) expect(ignored).toContain(path)
})

test.skipIf(whyNot('haproxy'))("HAProxy takes the document's configuration for Kubernetes", async () => {
  const block = /```haproxy\n([\s\S]*?)```/.exec(readFileSync('docs/scale-out.md', 'utf8'))![1]!
  const [resolvers, servers] = block.split('backend replicas\n')
  const config = readFileSync('docs/scale-out/haproxy.cfg', 'utf8').replace(/^ {4}server .*\n/gm, '')
  const folder = await mkdtemp(join(tmpdir(), 'gorgon-haproxy-'))
  const file = join(folder, 'haproxy.cfg')
  await writeFile(file, `${config}${servers}\n${resolvers}`)
  expect(() => execFileSync('haproxy', ['-c', '-f', file], { stdio: 'pipe' })).not.toThrow()
  await rm(folder, { recursive: true })
})
