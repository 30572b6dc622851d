// Package plan decides which node gets which block of addresses. It is pure: everything it knows
// stands in Input, everything it wants stands in Output, sorted, and the same Input in any order
// gives the same Output.
//
// # How a block comes to a node
//
// A block is recorded as a NodeBlock, one object per block, named after it:
//
//	(none) -> claimed -> Bound -> in MeshNode.spec ... node gone -> Cooling -> (none)
//
// Each arrow is one write, and each write is refused by the API server when the object is not as
// it was when the plan was made. So two operators at once, each with a view that lags behind,
// never give one block twice:
//
//  1. To claim a block is to create its NodeBlock. The name is the block, so one creation wins.
//  2. Two blocks may overlap without being equal, when the operators know different sizes of one
//     pool. A claim becomes Bound only when it is in the cache and overlaps no other there. Changes
//     of one kind arrive in the order in which they were made: whoever sees its own claim sees every
//     earlier one. Of two overlapping claims the later is therefore never alone, and is withdrawn.
//     Withdrawing carries the version seen, so it cannot hit a claim that was bound meanwhile.
//  3. Only a Bound block is written into a MeshNode, after one more look at the NodeBlock itself,
//     past the cache.
//  4. A block is free again only after its node and its MeshNode were seen to be gone for the whole
//     cooldown, counted in elapsed time by whoever watches, and written down as what is left. No date
//     is compared, so clocks may jump and differ. The cooldown is longer than any write may take,
//     and that closes the gap between the look in 3 and the write.
//
// # What never happens
//
// A node's block never changes because something else came or went; whoever came later is refused.
// A pool that is disabled, made smaller or deleted takes no block away. A bad object becomes a
// Problem, and the rest goes on.
package plan
