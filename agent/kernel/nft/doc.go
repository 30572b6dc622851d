//go:build linux

// Package nft keeps the nftables tables that Weftnet owns as they are wanted, each by itself. It speaks netlink
// itself: the expressions of rules come from google/nftables, the messages around them from here,
// so that a refused transaction names the step that the kernel refused, and so that a change of
// set elements is nothing but those elements.
//
// The wanted table is a state.Table. Observe reads what the kernel has, Diff (pure) compares the
// two, Apply sends the difference as one transaction: all of it happens, or nothing.
//
// Every rule carries a hash of its own text in its user data. A rule counts as intact when its
// place in the chain, that hash and the expressions that the kernel reports all fit; whatever
// another program deletes, adds or changes in the table is therefore seen and put right.
// Other tables are never read nor touched. The table has no owner flag: it outlives the agent.
package nft
