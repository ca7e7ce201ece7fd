// What both entries of `gorgon/client` give, beside `connect`.
export { CloseCode, SUBPROTOCOL } from '../server/close-codes.js'
export type { Client } from './client.js'
export { ClientError, type ClientErrorCode } from './errors.js'
export type { Chunk, Generation, Result, Span, TokenLogprob } from './generation.js'
export type {
  ClientState,
  ConnectOptions,
  GenerateOptions,
  Message,
  ModelInfo,
  Prompt,
  ReconnectOptions,
  Restart,
  SessionInput,
  SessionOptions,
  StateChange,
} from './options.js'
export type { ClientSessionOptions, Session } from './session.js'
export type { StandardSocket, StandardSocketClass } from './socket.js'
