// Puts work off until the engine has been asked for its next step.

let turn: Promise<void> | null = null

/**
 * Resolves when the event loop has come round, for all who wait in this turn at once. What follows from a step of the engine is done by
 * then, up to the call for its next one: whoever waits works while the engine computes, and not while it waits to be asked.
 */
export function nextTurn(): Promise<void> {
  turn ??= new Promise((resolve) => {
    setImmediate(() => {
      turn = null
      resolve()
    })
  })
  return turn
}
