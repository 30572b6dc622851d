//go:build linux

package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
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
	wanted   map[snapshot.ServiceName][]state.FrontendKey
	problems []desired.Problem
}

// NewNodePorts asks list for the listeners.
func NewNodePorts(list func(ctx context.Context) ([]listener.Listener, error), log *slog.Logger) *NodePorts {
	return &NodePorts{list: list, log: log, wanted: map[snapshot.ServiceName][]state.FrontendKey{}}
}

// Put takes Services that have changed.
func (p *NodePorts) Put(_ context.Context, wanted []desired.Wanted) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range wanted {
		delete(p.wanted, w.Service)
		for _, f := range w.Frontends {
			if f.Kind == state.FrontendNodePort {
				p.wanted[w.Service] = append(p.wanted[w.Service], f.FrontendKey)
			}
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

// portOf is a port of a protocol.
type portOf struct {
	proto uint8
	port  uint16
}

// inTheWay tells whether a socket that is bound to one address would get what comes to another; that of
// all IPv6 addresses mostly has the IPv4 ones, too.
func inTheWay(bound, to netip.Addr) bool {
	return bound == to || bound == netip.IPv6Unspecified() || bound.IsUnspecified() && to.Is4()
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

// clashes compares. A process that listens elsewhere, on the loopback or on an address that has no
// node ports, is in nobody's way.
func clashes(wanted map[snapshot.ServiceName][]state.FrontendKey, listeners []listener.Listener) []desired.Problem {
	taken := map[portOf][]netip.Addr{}
	for _, l := range listeners {
		key := portOf{l.Protocol, l.Address.Port()}
		taken[key] = append(taken[key], l.Address.Addr().Unmap())
	}
	var out []desired.Problem
	for name, frontends := range wanted {
		said := map[portOf]bool{}
		for _, f := range frontends {
			key := portOf{f.Proto, f.Port}
			i := slices.IndexFunc(taken[key], func(a netip.Addr) bool { return inTheWay(a, f.Addr) })
			if i < 0 || said[key] {
				continue
			}
			said[key] = true
			out = append(out, desired.Problem{Service: name, Reason: ReasonNodePortInUse, Text: fmt.Sprintf(
				"a process of a node listens on %s, NodePort %d/%s: connections to %s go to the Service, and never reach the process",
				netip.AddrPortFrom(taken[key][i], f.Port), f.Port, state.ProtoValue(f.Proto).Format(state.TypeProto), f.Addr)})
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
