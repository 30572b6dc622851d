//go:build linux

// Package route keeps the node's routes and policy rules as wanted: those of protocol 87, and the
// rules of priorities 8700 to 8799. Everything else in the routing tables is another's: it is not
// listed (the kernel filters by owner), not replaced and not deleted. Where a stranger's route
// stands in the place of a wanted one, that one is left out and reported as a conflict.
//
// What is new is added and what changed is replaced before anything is deleted, so that a route
// whose device or source changes never is missing in between.
package route
