// node dist/bench/peers/export-gguf.js MODEL FILE: a model folder as a GGUF file for llama.cpp.
import { Command } from 'commander'
import { demoModel, isGorgonError } from '../../src/index.js'
import { exportGguf } from './model-to-gguf.js'

await new Command('export-gguf')
  .description('Writes a model folder as a GGUF file: matrices as stored, vectors as f32.')
  .argument('<model>', 'a model folder, or demo')
  .argument('<file>', 'the GGUF file to write')
  .action(async (model: string, file: string) => {
    const { bytes, tensors, dtype, hasVocabulary } = await exportGguf(model === 'demo' ? demoModel() : model, file)
    const vocabulary = hasVocabulary ? '' : '; a placeholder vocabulary, for token ids only'
    process.stdout.write(`${file}: ${tensors} tensors, ${dtype}, ${bytes} bytes${vocabulary}\n`)
  })
  .parseAsync()
  .catch((error: Error) => {
    process.stderr.write(`${isGorgonError(error) ? `${error.code}: ` : ''}${error.message}\n`)
    process.exitCode = 1
  })
