// gorgon/weights: model folders, heads and safetensors files, read from their headers alone.
export { findHeads, type HeadsFolder, type ModelFolder, readHeads, readModelFolder } from './load.js'
export {
  openSafetensors,
  readTensorBytes,
  type SafetensorsFile,
  type TensorData,
  type TensorEntry,
  writeSafetensors,
} from './safetensors.js'
