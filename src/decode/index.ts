// gorgon/decode: trees, drafting and acceptance, pure functions over small arrays, for whoever measures or grows trees.
export { type Accepted, type AcceptRule, accept } from './accept.js'
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
export { buildTree, limitDepth, PLAIN_TREE, parseTree, type Tree, type TreeOption } from './tree.js'
