// Random trees for the tests of this folder.
import fc from 'fast-check'
import type { Choices } from '../../src/decode/choices.js'

/** Prefix-closed choices of up to `maxNodes` nodes beside the root, in an order of no meaning. */
export function choicesArbitrary({ maxNodes = 63, maxDepth = 8 } = {}): fc.Arbitrary<Choices> {
  const growth = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 9 })), { maxLength: maxNodes })
  return fc.tuple(growth, fc.nat()).map(([steps, rotation]) => {
    const paths: number[][] = [[]]
    const known = new Set([''])
    for (const [parentSeed, rank] of steps) {
      const path = [...paths[parentSeed % paths.length]!, rank]
      if (path.length > maxDepth || known.has(path.join())) continue
      known.add(path.join())
      paths.push(path)
    }
    const choices = paths.slice(1)
    const cut = choices.length === 0 ? 0 : rotation % choices.length
    return [...choices.slice(cut), ...choices.slice(0, cut)]
  })
}
