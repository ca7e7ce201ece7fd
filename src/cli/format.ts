// Numbers, tables and engines for people to read.
import type { EngineInfo } from '../index.js'

/** `12.3 MiB` */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = count
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

/** `cpu (amx, bf16), 8 threads` or `cuda (sm_90a, bf16), NVIDIA H200` */
export function placeOf({
  backend,
  isa,
  dtype,
  weights,
  threads,
  device,
}: Pick<EngineInfo, 'backend' | 'isa' | 'dtype' | 'weights' | 'threads'> & {
  readonly device: { readonly name: string } | null
}): string {
  const held = weights === 'int8' ? `${dtype}, int8 weights` : dtype
  return `${backend} (${isa}, ${held}), ${device ? device.name : `${threads} threads`}`
}

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = []
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length)
    })
  }
  return rows
    .map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
    .map((line) => `${line.trimEnd()}\n`)
    .join('')
}

/** Names to the left, what belongs to them beside it. */
export function list(entries: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...entries.map(([name]) => name.length))
  const indent = ' '.repeat(width + 2)
  return entries.map(([name, value]) => `${name.padEnd(width)}  ${value.replaceAll('\n', `\n${indent}`)}\n`).join('')
}
