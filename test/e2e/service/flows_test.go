//go:build e2e

package service

import (
	"context"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// allFlows are the TCP flows that any node knows.
func allFlows() []conntrack.Flow {
	var out []conntrack.Flow
	for node := range probes.Hosts {
		out = append(out, tcpFlows(node)...)
	}
	return out
}

// tcpFlows are those that one node knows.
func tcpFlows(node int) []conntrack.Flow {
	var out []conntrack.Flow
	inNamespaceOf(probes.Hosts[node].Spec.NodeName, func() {
		k, err := conntrack.New()
		if err != nil {
			return
		}
		defer func() { _ = k.Close() }()
		flows, _ := k.List(context.Background())
		for _, f := range flows {
			if f.Original.Protocol == state.ProtoTCP {
				out = append(out, f)
			}
		}
	})
	return out
}

// inNamespaceOf runs f on a thread of its own in a node's network namespace; not at all if that cannot be.
func inNamespaceOf(node string, f func()) {
	_ = proc.InNetNS(node, func() error { f(); return nil })
}
