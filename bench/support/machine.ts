// Where and on what a measurement was made: as `gorgon bench` records it.
export * from '../../src/bench/machine.js'
