// A worker thread that calls the addon without end, in one of five ways, or once. Plain JavaScript, so that it starts at once.
import { createRequire } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'

/** @type {{ addonFile: string, spec: import('../../../src/native.js').ModelSpec, kind: string, sampling: import('../../../src/native.js').SamplingSpec }} */
const { addonFile, spec, kind, sampling } = workerData
/** @type {import('../../../src/native.js').Native} */
const addon = createRequire(import.meta.url)(addonFile)
const tokens = Int32Array.from({ length: 512 }, (_, i) => i)

/** @param {import('../../../src/native.js').SessionHandle} session */
function begin(session, prompt = tokens) {
  addon.beginPrefill({ session, tokens: prompt, sampling, compression: null, medusaHeads: 0, topK: 0 })
}

/** @type {Record<string, () => Promise<void>>} */
const kinds = {
  async once() {
    const model = await addon.openModel(spec)
    const session = addon.openSession(model)
    begin(session, Int32Array.of(0, 5, 6, 7))
    let [step] = await addon.prefill([session])
    while (!step?.result) [step] = await addon.prefill([session])
    const made = [step.result.drafts.root]
    while (made.length < 20) {
      const root = Int32Array.of(made[made.length - 1] ?? 0)
      await addon.verify([{ session, tokens: root, parents: Int32Array.of(-1), typical: false }])
      const [drafts] = await addon.commit([{ session, path: Int32Array.of(0), medusaHeads: 0, topK: 0 }])
      made.push(drafts?.root ?? -1)
    }
    await addon.close(session)
    await addon.close(model)
    parentPort?.postMessage(made)
  },

  async load() {
    parentPort?.postMessage('busy')
    for (;;) await Promise.all([addon.openModel(spec), addon.openModel(spec)])
  },

  async work() {
    const model = await addon.openModel(spec)
    const sessions = [addon.openSession(model), addon.openSession(model)]
    parentPort?.postMessage('busy')
    for (;;) {
      for (const session of sessions) begin(session)
      for (let layer = 0; layer < 6; layer++) await Promise.all(sessions.map((session) => addon.prefill([session])))
      const [oldest] = sessions.splice(0, 1, addon.openSession(model))
      if (oldest) void addon.close(oldest)
    }
  },

  async training() {
    const model = await addon.openModel(spec)
    const heads = { medusaHeads: 2, blocks: 1, privateProjection: false }
    const text = { tokens, from: 0, hidden: null }
    const scales = Float32Array.of(1, 1)
    const update = { scale: 1e-3, clip: 1, learningRate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0 }
    parentPort?.postMessage('busy')
    for (;;) {
      const trainer = await addon.training.openTrainer(model, heads)
      await addon.training.accumulate(trainer, [text], scales)
      await addon.training.update(trainer, { ...update, step: 1 })
      void addon.training.closeTrainer(trainer)
    }
  },

  async refused() {
    const session = addon.openSession(await addon.openModel(spec))
    parentPort?.postMessage('busy')
    for (;;) await addon.prefill([session]).catch(() => undefined)
  },

  /** The thread is stopped inside a call that never waits. */
  async synchronous() {
    const session = addon.openSession(await addon.openModel(spec))
    parentPort?.postMessage('busy')
    for (;;) {
      begin(session)
      addon.sessionInfo(session)
      try {
        addon.modelInfo(/** @type {never} */ ({}))
      } catch {}
    }
  },
}

await kinds[kind]?.()
