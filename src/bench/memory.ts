// How much memory a process holds while it works.

const RSS_INTERVAL_MS = 10

/** What the work gives, and the highest resident size seen meanwhile. */
export async function watchMemory<T>(work: PromiseLike<T>): Promise<{ result: T; peakRssBytes: number }> {
  let peakRssBytes = process.memoryUsage.rss()
  const look = (): void => {
    peakRssBytes = Math.max(peakRssBytes, process.memoryUsage.rss())
  }
  const clock = setInterval(look, RSS_INTERVAL_MS)
  try {
    const result = await work
    look()
    return { result, peakRssBytes }
  } finally {
    clearInterval(clock)
  }
}
