// The public API: re-exports only.
export { backends } from './backend.js'
export type { Engine, EngineMemory, EngineStats, EngineTotals } from './engine.js'
export { type ErrorCode, GorgonError, isGorgonError } from './errors.js'
export type { Generation } from './generation.js'
export { type HeadsSummary, inspect, type ModelReport, type ModelSummary, type WeightsSummary } from './inspect.js'
export { demoModel, loadEngine } from './load-engine.js'
export { type BackendInfo, type DeviceInfo, packageRoot } from './native.js'
export {
  type GenerateOptionsInput,
  type GenerateOptionsInput as GenerateOptions,
  type KvOptionsInput,
  type KvOptionsInput as KvOptions,
  type LoadOptionsInput,
  type LoadOptionsInput as LoadOptions,
  type LoadProgress,
  type Message,
  type PrefillProgress,
  parseGenerateOptions,
  parseLoadOptions,
  type QueueProgress,
  type SessionOptionsInput,
  type SessionOptionsInput as SessionOptions,
  type SpeculationOptionsInput,
  type SpeculationOptionsInput as SpeculationOptions,
} from './options.js'
export { packageManifest } from './package.js'
export type { EngineInfo } from './parts.js'
export type { Prompt } from './prompt.js'
export type { Chunk, Finish, KvReport, Result, TokenLogprob, Usage } from './result.js'
export type { Session, SessionInput, SessionStats } from './session.js'
export type { Percentiles, SpeculationReport, Timing } from './stats.js'
