// gorgon/heads: Medusa heads made, measured and converted; re-exports only.
export { type Calibration, type CalibrationConditions, calibrateHeads } from './calibrate/calibrate.js'
export type { Check } from './calibrate/check.js'
export { type WrittenFile, writeCalibration } from './calibrate/files.js'
export {
  type CalibrateOptionsInput,
  type CalibrateOptionsInput as CalibrateOptions,
  type CalibrationProgress,
  parseCalibrateOptions,
} from './calibrate/options.js'
export type { SizeRate } from './calibrate/sizes.js'
export type { Rate } from './calibrate/walk.js'
export { type ConvertReport, convertHeads } from './convert/convert.js'
export type {
  ConvertOptionsInput,
  ConvertOptionsInput as ConvertOptions,
  ConvertProgress,
} from './convert/options.js'
export { type HeldOutLine, type LogLine, readTrainingLog, type StepLine } from './train/log.js'
export type { HeadScores } from './train/loss.js'
export {
  DEFAULTS as TRAINING_DEFAULTS,
  parseTrainOptions,
  type TrainingProgress,
  type TrainOptionsInput,
  type TrainOptionsInput as TrainOptions,
} from './train/options.js'
export { headsTable } from './train/report.js'
export { type TrainingReport, trainHeads } from './train/train.js'
