// Oracle of embed: rows of a table.

/** [T, C] of ids [T] and table [V, C]. */
export function embed(ids: ArrayLike<number>, table: ArrayLike<number>, width: number): number[] {
  const out: number[] = []
  for (let t = 0; t < ids.length; t++) {
    for (let i = 0; i < width; i++) out.push(table[ids[t]! * width + i]!)
  }
  return out
}
