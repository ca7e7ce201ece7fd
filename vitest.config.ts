import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // One native context per process: the addon keeps per-environment state, and a crash names its file.
    pool: 'forks',
    env: {
      // No test may find what another left, or leave anything behind.
      GORGON_CACHE: 'off',
      // Where there is a GPU, "auto" would be it.
      GORGON_BACKEND: process.env['GORGON_BACKEND'] || 'cpu',
    },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
