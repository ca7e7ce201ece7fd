// Runs the arms of a comparison in turns: as `gorgon bench` does.
export * from '../../src/bench/interleave.js'
