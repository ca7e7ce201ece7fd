// gorgon/decode: trees, drafting and acceptance, pure functions over small arrays, for whoever measures or grows trees.
export { type Accepted, type AcceptRule, accept } from './accept.js'
export {
  type GrownPath,
  grownShares,
  independentShares,
  NOMINAL_ACCURACY,
  type RankAccuracy,
  type ShareOf,
  smoothAccuracy,
} from './accuracy.js'
export {
  CHOICES,
  type Choices,
  chain,
  firstPaths,
  NODE_LIMIT,
  type Path,
  RANK_COUNT,
  type TreeName,
} from './choices.js'
export { draft } from './draft.js'
export { type StepCosts, type StepShape, stepMs } from './step-costs.js'
export { buildTree, limitDepth, PLAIN_TREE, parseTree, type Tree, type TreeOption } from './tree.js'
export {
  autoFamily,
  growPaths,
  type MeasuredHeads,
  singleFamily,
  TreeFamily,
  UNMEASURED_HEADS,
} from './tree-family.js'
