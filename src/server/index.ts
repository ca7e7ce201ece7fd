// The server's public API, `gorgon/server`: re-exports only.

export type { Credentials, Principal } from './auth.js'
export { CloseCode, SUBPROTOCOL } from './close-codes.js'
export type { Problem } from './errors.js'
export type { Intake, ServedSession, Work, WorkRequest } from './intake.js'
export { createLogger, type Logger } from './log.js'
export {
  type LogLevel,
  parseServerOptions,
  type ServerOptionsInput,
  type ServerOptionsInput as ServerOptions,
} from './options.js'
export * from './protocol.js'
export { createServer, type InferenceServer, type ServerAddress } from './server.js'
