//go:build linux

package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/listener"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// ReasonNodePortInUse is the reason of the problem of a NodePort that a local process listens on.
const ReasonNodePortInUse = "NodePortInUse"

// clashEvery is how often the listeners of the node are compared with the node ports.
const clashEvery = 30 * time.Second

// NodePorts looks for local processes that listen on node ports. They are not kept from it: the rules
// send what comes from outside to the Service in any case, and a port that the agent held would be
// free whenever the agent is not there. But somebody should know.
type NodePorts struct {
	list func(ctx context.Context) ([]listener.Listener, error)
	log  *slog.Logger

	mu       sync.Mutex
	wanted   map[snapshot.ServiceName][]desired.NodePort
	problems []desired.Problem
}

// NewNodePorts asks list for the listeners.
func NewNodePorts(list func(ctx context.Context) ([]listener.Listener, error), log *slog.Logger) *NodePorts {
	return &NodePorts{list: list, log: log, wanted: map[snapshot.ServiceName][]desired.NodePort{}}
}

// Put takes Services that have changed.
func (p *NodePorts) Put(_ context.Context, wanted []desired.Wanted) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range wanted {
		if p.wanted[w.Service] = w.NodePorts; len(w.NodePorts) == 0 {
			delete(p.wanted, w.Service)
		}
	}
	return nil
}

// Complete has no meaning here.
func (p *NodePorts) Complete(context.Context) error { return nil }

// Problems are the clashes that were found last.
func (p *NodePorts) Problems() []desired.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problems
}

// Run looks again and again until the context ends.
func (p *NodePorts) Run(ctx context.Context) {
	tick := time.NewTicker(clashEvery)
	defer tick.Stop()
	for {
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("look for processes on node ports", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *NodePorts) look(ctx context.Context) error {
	p.mu.Lock()
	none := len(p.wanted) == 0
	p.mu.Unlock()
	var listeners []listener.Listener
	if !none {
		var err error
		if listeners, err = p.list(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = clashes(p.wanted, listeners)
	return nil
}

// clashes compares; loopback addresses have no node ports.
func clashes(wanted map[snapshot.ServiceName][]desired.NodePort, listeners []listener.Listener) []desired.Problem {
	taken := map[desired.NodePort]listener.Listener{}
	for _, l := range listeners {
		if !l.Address.Addr().IsLoopback() {
			taken[desired.NodePort{Proto: l.Protocol, Port: l.Address.Port()}] = l
		}
	}
	var out []desired.Problem
	for name, ports := range wanted {
		for _, port := range ports {
			if l, clash := taken[port]; clash {
				out = append(out, desired.Problem{Service: name, Reason: ReasonNodePortInUse, Text: fmt.Sprintf(
					"a process of a node listens on %s, NodePort %d/%s: connections from outside go to the Service, and never reach the process",
					l.Address, port.Port, state.ProtoValue(port.Proto).Format(state.TypeProto))})
			}
		}
	}
	slices.SortFunc(out, func(a, b desired.Problem) int {
		if c := a.Service.Compare(b.Service); c != 0 {
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	return out
}
