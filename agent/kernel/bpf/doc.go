//go:build linux

// Package bpf balances TCP connections of local processes at the socket: programs on the node's
// cgroup choose the endpoint of a Service when a process connects, so that no packet is translated.
// It is the only importer of cilium/ebpf.
//
// What the programs do not know, they let through, and the rules in nftables decide. So the balancer
// may be absent, behind or off at any moment and no connection is worse for it; whoever changes both
// writes nftables first when something comes, and here first when something goes.
//
// The programs are pinned as links below one folder of a bpf file system and work on while the agent
// is down. Their tables are not adopted by the next agent: it makes new ones, fills them from the full
// wanted state, and replaces the programs one by one, each in one step. The same way leads to larger
// tables, and out of any doubt about what the present ones hold. What outlives that is pinned by
// itself: the clients' affinity, what each socket had asked for, and the counters.
package bpf

import (
	"context"

	"github.com/weftnet/weftnet/agent/state"
)

// Wanted is what one owner, such as a Service, wants.
type Wanted struct {
	// Owner is its name, unique and not empty.
	Owner string
	// Age decides who has a frontend that several want: the smallest, and among equals the first by
	// name. It is a time in any unit.
	Age int64
	// Frontends in any order, which the balancer keeps: they must not be changed any more. None takes the
	// owner away.
	Frontends []state.SocketFrontend
}

// Balancer takes the wanted state.
type Balancer interface {
	// Sync makes the frontends of all owners what is given. Nothing is balanced before the first one.
	// It may be called again with the same value, and then costs little.
	Sync(ctx context.Context, all []Wanted) error
	// Set replaces the frontends of some owners. Before the first Sync it is refused. After an error
	// the next call of either repairs what it left.
	Set(ctx context.Context, wanted ...Wanted) error
	// Observe reads what is in force, sorted.
	Observe(ctx context.Context) ([]state.SocketFrontend, error)
}
