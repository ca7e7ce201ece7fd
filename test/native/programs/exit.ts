// Ends the process with code 7 while a call runs: by process.exit, or by an exception nobody catches. Arguments: a model folder; when.
import { native } from '../../../src/native.js'
import { readySession, specOf } from '../../support/native-calls.js'
import { GREEDY } from '../../support/native-session.js'

const [, , dir = '', when] = process.argv
const addon = native()
const spec = await specOf(dir)
const loading = addon.openModel(spec)
if (when === 'load') process.exit(7)
const model = await loading
const tokens = Int32Array.from({ length: 512 }, (_, i) => i)
if (when === 'prefill') {
  const session = addon.openSession(model)
  addon.beginPrefill({ session, tokens, sampling: GREEDY, compression: null, medusaHeads: 0, topK: 0 })
  void addon.prefill([session])
  process.exit(7)
}
if (when === 'training') {
  const trainer = await addon.training.openTrainer(model, { medusaHeads: 2, blocks: 1, privateProjection: false })
  void addon.training.accumulate(trainer, [{ tokens, from: 0, hidden: null }], Float32Array.of(1, 1))
  void addon.training.closeTrainer(trainer)
  process.exit(7)
}
const { session } = await readySession(model)
void addon.verify([{ session, tokens: Int32Array.of(1), parents: Int32Array.of(-1), typical: false }])
if (when === 'verify') {
  void addon.close(session)
  process.exit(7)
}
throw new Error('nobody catches this')
