// Where and on what a measurement was made.
import { execFileSync } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { arch, availableParallelism, cpus, platform, release, totalmem } from 'node:os'
import { z } from 'zod'
import { packageRoot } from '../index.js'
import { GpuRecord, gpuRecord } from './gpu.js'

export const MachineRecord = z.object({
  /** As the CPU names itself. */
  cpu: z.string(),
  /** Logical CPUs this process may use. */
  cores: z.number(),
  /** Compute threads used. */
  threads: z.number(),
  /** Instruction set used; of several, the best. */
  isa: z.string(),
  /** What computed, where that was not the CPU. */
  gpu: GpuRecord.nullable().default(null),
  memoryBytes: z.number(),
  /** Kind, release and architecture. */
  os: z.string(),
  node: z.string(),
  /** Of the sources measured; null when nobody knows. */
  commit: z.string().nullable(),
  /** Whether the sources had uncommitted changes; null when nobody knows. */
  dirty: z.boolean().nullable(),
  /** ISO 8601, UTC: when the record was made. */
  date: z.string(),
})
export type MachineRecord = Readonly<z.infer<typeof MachineRecord>>

/** Instruction sets of GPUs are named like this. */
const GPU_ISA = /^sm_\d/

/** What measuring leaves behind does not change what is measured. */
const NOT_MEASURED = [':!bench/results', ':!bench/plots', ':!*.md']

/**
 * @param used what the engine said it runs on: `engine.info` will do.
 * @param env `GORGON_COMMIT` names the commit where git cannot.
 */
export function machineRecord(
  used: { readonly isa: string; readonly threads: number },
  env: Readonly<Record<string, string | undefined>> = process.env,
): MachineRecord {
  return {
    cpu: cpus()[0]?.model.replace(/\s+/g, ' ').trim() || 'unknown',
    cores: availableParallelism(),
    threads: used.threads,
    isa: used.isa,
    gpu: GPU_ISA.test(used.isa) ? gpuRecord() : null,
    memoryBytes: totalmem(),
    os: `${platform()} ${release()} ${arch()}`,
    node: process.version,
    ...sourcesOf(env),
    date: new Date().toISOString(),
  }
}

function sourcesOf(env: Readonly<Record<string, string | undefined>>): Pick<MachineRecord, 'commit' | 'dirty'> {
  if (env['GORGON_COMMIT']) return { commit: env['GORGON_COMMIT'], dirty: null }
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: packageRoot(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  try {
    // Installed as a dependency, the repository around us is somebody else's.
    if (realpathSync(git('rev-parse', '--show-toplevel')) !== realpathSync(packageRoot())) throw new Error('not ours')
    return { commit: git('rev-parse', 'HEAD'), dirty: git('status', '--porcelain', '--', '.', ...NOT_MEASURED) !== '' }
  } catch {
    return { commit: null, dirty: null }
  }
}
