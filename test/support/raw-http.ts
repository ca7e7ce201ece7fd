// An HTTP client that sends exactly what a test says, also when that is not HTTP.
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'

export interface RawClient {
  readonly socket: Socket
  write(bytes: string | Buffer): void
  /** All that came, once it matches; whatever came, when the server closes first. */
  until(pattern: RegExp): Promise<string>
  /** All that came, once the server has closed. */
  closed(): Promise<string>
}

/** Connects; resolves when the server's machine has taken the connection. */
export async function rawClient(port: number): Promise<RawClient> {
  const socket = createConnection({ port, host: '127.0.0.1' })
  let received = ''
  socket.setEncoding('latin1').on('data', (text: string) => {
    received += text
  })
  // A reset is a way of closing.
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  const isOver = once(socket, 'close').then(() => true)
  return {
    socket,
    write: (bytes) => void socket.write(bytes),
    async until(pattern) {
      while (!pattern.test(received)) {
        const data = once(socket, 'data').then(() => false)
        if (await Promise.race([data, isOver])) break
      }
      return received
    },
    async closed() {
      await isOver
      return received
    },
  }
}

/** A POST of JSON, headers and body as text; `headers` come on top. */
export function postText(path: string, body: string, headers: Readonly<Record<string, string>> = {}): string {
  const all = {
    host: 'localhost',
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(body)),
    ...headers,
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  return `POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`
}
