// What the driver's own tool says of a GPU: a measurement means little without it.
import { execFileSync } from 'node:child_process'
import { z } from 'zod'

export const GpuRecord = z.object({
  /** As the driver names it. */
  name: z.string(),
  driver: z.string().nullable(),
  /** The newest CUDA that this driver runs. */
  cuda: z.string().nullable(),
  memoryBytes: z.number().nullable(),
  /** Of its multiprocessors, at most; what they ran at depends on heat and load. */
  clockMHz: z.number().nullable(),
})
export type GpuRecord = Readonly<z.infer<typeof GpuRecord>>

const FIELDS = ['name', 'driver_version', 'memory.total', 'clocks.max.sm'] as const

function nvidiaSmi(...args: string[]): string {
  try {
    return execFileSync('nvidia-smi', args, { encoding: 'utf8', timeout: 10_000, stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return ''
  }
}

/**
 * The first GPU, read and never set.
 *
 * @param ask runs `nvidia-smi` with some arguments; '' where it cannot.
 */
export function gpuRecord(ask: (...args: string[]) => string = nvidiaSmi): GpuRecord {
  const line = ask('-i', '0', `--query-gpu=${FIELDS.join(',')}`, '--format=csv,noheader,nounits').split('\n')[0] ?? ''
  // What a GPU does not have is printed as [N/A].
  const [name = '', driver = '', mebibytes = '', clock = ''] = line
    .split(',')
    .map((word) => word.trim().replace(/^\[.*\]$/, ''))
  const number = (text: string): number | null => (/^\d+(\.\d+)?$/.test(text) ? Number(text) : null)
  const memory = number(mebibytes)
  return {
    name: name || 'unknown GPU',
    driver: driver || null,
    cuda: /CUDA Version:\s*([\d.]+)/.exec(ask())?.[1] ?? null,
    memoryBytes: memory === null ? null : memory * 2 ** 20,
    clockMHz: number(clock),
  }
}
