// Numbers as tables show them.

/** `digits` after the point; a dash for what is not a number. */
export function fixed(value: number | null | undefined, digits = 0): string {
  return value === null || value === undefined || !Number.isFinite(value) ? '–' : value.toFixed(digits)
}

/** About three digits, whatever the size: 0.123, 1.23, 12.3, 123, 1234. */
export function short(value: number | null | undefined): string {
  const size = Math.abs(value ?? 0)
  return fixed(value, size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0)
}

/** `63%` */
export function percent(part: number, whole: number): string {
  return whole === 0 ? '–' : `${Math.round((100 * part) / whole)}%`
}

/** `12.3`, of bytes. */
export function mebibytes(bytes: number, digits = 1): string {
  return fixed(bytes / 2 ** 20, digits)
}
