// What a server's /metrics says.

/**
 * The value of one series, such as `gorgon_running{model="demo"}`; labels in the order of docs/metrics.md. NaN where there is no such series yet.
 *
 * @param url of the server.
 */
export async function metricOf(url: string, series: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const line = text.split('\n').find((one) => one.startsWith(`${series} `))
  return line === undefined ? Number.NaN : Number(line.slice(series.length + 1))
}
