// gorgon/heads: Medusa heads made, measured and converted; re-exports only.
export {
  type DataOptions,
  type Encoder,
  readTrainingData,
  splitDocuments,
  type TrainingData,
  type TrainingDocument,
} from './train/data.js'
export { type HeldOutLine, type LogLine, readTrainingLog, type StepLine } from './train/log.js'
export type { HeadScores } from './train/loss.js'
