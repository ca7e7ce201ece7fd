// What the server tells whoever counts: the metrics are made from it.
import type { Chunk, Result } from '../index.js'

export type Endpoint = 'chat' | 'completions' | 'responses' | 'stream' | 'responses-socket'

/** What a work is: bounded words, fit for labels. */
export interface WorkLabels {
  readonly endpoint: Endpoint
  readonly model: string
}

/** Told of one work, in order: chunks, then one of the others, once. */
export interface WorkObserver {
  chunk(chunk: Chunk): void
  /** Also when it was cut short. */
  finished(result: Result): void
  failed(code: string): void
}

export interface Observer {
  /** A work begins. */
  work(labels: WorkLabels): WorkObserver
  /** One was refused before it began. */
  refused(endpoint: Endpoint, code: string): void
}
