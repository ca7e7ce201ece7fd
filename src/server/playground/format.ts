// Numbers as a reader wants them.

/** Shown where there is no number. */
export const NONE = '–'

const grouped = new Intl.NumberFormat('en')

export const showCount = (count: number): string => grouped.format(count)

/** Three digits that matter: 0.123, 1.23, 12.3, 123, 1,234. */
export function showNumber(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** `5.12 ms`, `842 ms`, `3.40 s`. */
export function showMs(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return NONE
  return ms < 1000 ? `${showNumber(ms)} ms` : `${showNumber(ms / 1000)} s`
}

/** `37 %`; never 0 or 100 for what is only near it. */
export function showShare(part: number, whole: number): string {
  if (whole === 0) return NONE
  const percent = (100 * part) / whole
  if (percent > 0 && percent < 1) return '< 1 %'
  if (percent > 99 && percent < 100) return '> 99 %'
  return `${Math.round(percent)} %`
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

/** `512 B`, `1.50 MiB`. */
export function showBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit += 1
  }
  return unit === 0 ? `${value} B` : `${showNumber(value)} ${UNITS[unit]}`
}
