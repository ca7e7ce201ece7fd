import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // One native context per process: the addon keeps per-environment state, and a crash names its file.
    pool: 'forks',
    // No test may find what another left, or leave anything behind.
    env: { GORGON_CACHE: 'off' },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
