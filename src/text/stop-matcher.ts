// Finds the first of several strings to complete in a text that comes in pieces, and how much of the text might still become one.

interface Node {
  readonly next: Map<string, Node>
  /** UTF-16 code units from the root: what this node says has been read. */
  readonly length: number
  /** The longest stop string that ends here; null if none does. */
  match: string | null
  /** The node of the longest proper suffix that begins some stop string. */
  fail: Node | null
}

/**
 * An Aho-Corasick automaton over code points, so half a surrogate pair never matches.
 *
 * Of several stop strings the first to complete wins, and of those that complete at the same character the longest. That depends on the
 * characters alone, not on the pieces they come in.
 */
export class StopMatcher {
  readonly #root: Node
  #at: Node

  /** @param stops none of them empty */
  constructor(stops: readonly string[]) {
    this.#root = { next: new Map(), length: 0, match: null, fail: null }
    this.#at = this.#root
    for (const stop of stops) this.#insert(stop)
    this.#link()
  }

  /** UTF-16 code units at the end of the text so far that begin a stop string. */
  get held(): number {
    return this.#at.length
  }

  /** Reads on. At the first stop string to complete: it, and the index in `piece` just past it. Null when none completes. */
  read(piece: string): { stop: string; end: number } | null {
    if (this.#root.next.size === 0) return null
    let end = 0
    for (const character of piece) {
      end += character.length
      this.#at = this.#follow(this.#at, character)
      if (this.#at.match !== null) return { stop: this.#at.match, end }
    }
    return null
  }

  #insert(stop: string): void {
    let node = this.#root
    for (const character of stop) {
      let next = node.next.get(character)
      if (next === undefined) {
        next = { next: new Map(), length: node.length + character.length, match: null, fail: null }
        node.next.set(character, next)
      }
      node = next
    }
    node.match = stop
  }

  /** Breadth first, so that a node's suffixes, being shorter, are linked before it. */
  #link(): void {
    const queue = [this.#root]
    for (const node of queue) {
      for (const [character, child] of node.next) {
        child.fail = node.fail === null ? this.#root : this.#follow(node.fail, character)
        child.match ??= child.fail.match
        queue.push(child)
      }
    }
  }

  #follow(from: Node, character: string): Node {
    for (let node: Node | null = from; node !== null; node = node.fail) {
      const next = node.next.get(character)
      if (next !== undefined) return next
    }
    return this.#root
  }
}
