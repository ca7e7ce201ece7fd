// Order statistics of samples: those of `gorgon bench`.
export * from '../../src/bench/statistics.js'
