// The server gives the page uPlot under this name; see src/server/playground.ts.
export { default } from 'uplot'
