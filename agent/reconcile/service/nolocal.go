//go:build linux

package service

import (
	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// noLocal adds up what policies Local leave without an endpoint on this node. Only Services with some are in it.
type noLocal struct {
	of  map[snapshot.ServiceName]desired.NoLocal
	sum desired.NoLocal
}

// put takes one Service's in place of what it had.
func (n *noLocal) put(name snapshot.ServiceName, next desired.NoLocal) {
	n.sum = n.sum.Minus(n.of[name]).Plus(next)
	if n.of[name] = next; next == (desired.NoLocal{}) {
		delete(n.of, name)
	}
}
