//go:build linux

package service

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// udpTable knows where UDP flows to frontends may go: to every endpoint that answers, since an endpoint
// that is about to end still owes answers, and what a policy says is about new flows, as with TCP.
// Connection tracking keeps a UDP flow for as long as packets come, wherever it once went; so what
// leads to an endpoint that is gone has to be deleted.
type udpTable struct {
	services map[snapshot.ServiceName][]state.FrontendKey
	// targets are the endpoints of each frontend that answer, sorted: none where new connections are refused.
	targets map[state.FrontendKey][]netip.AddrPort
	// gone are the endpoints of frontends that went since the last look at connection tracking.
	gone map[state.FrontendKey][]netip.AddrPort
	// suspect says that there may be stale flows.
	suspect bool
}

func newUDPTable() udpTable {
	return udpTable{
		services: map[snapshot.ServiceName][]state.FrontendKey{}, targets: map[state.FrontendKey][]netip.AddrPort{},
		gone: map[state.FrontendKey][]netip.AddrPort{},
	}
}

// put takes a Service's frontends over, and notes whether flows may have become stale: where an
// endpoint or a frontend went away, and where one that had no endpoint has got one.
func (t *udpTable) put(name snapshot.ServiceName, frontends []state.Frontend) {
	var keys []state.FrontendKey
	for _, f := range frontends {
		if f.Proto != state.ProtoUDP {
			continue
		}
		keys = append(keys, f.FrontendKey)
		next := f.Alive
		before, known := t.targets[f.FrontendKey]
		if known && slices.Equal(before, next) {
			continue
		}
		t.suspect = t.suspect || (len(before) == 0 && len(next) > 0) || lost(before, next)
		t.targets[f.FrontendKey] = next
		delete(t.gone, f.FrontendKey)
	}
	for _, k := range t.services[name] {
		if !slices.Contains(keys, k) {
			t.gone[k], t.suspect = t.targets[k], true
			delete(t.targets, k)
		}
	}
	if t.services[name] = keys; len(keys) == 0 {
		delete(t.services, name)
	}
}

// lost tells whether one of before is not in next.
func lost(before, next []netip.AddrPort) bool {
	return slices.ContainsFunc(before, func(a netip.AddrPort) bool {
		_, found := slices.BinarySearchFunc(next, a, netip.AddrPort.Compare)
		return !found
	})
}

// frontendOf is where the one who began a flow has sent it.
func frontendOf(f conntrack.Flow) state.FrontendKey {
	return state.FrontendKey{Addr: f.Original.Dst.Addr().Unmap(), Proto: f.Original.Protocol, Port: f.Original.Dst.Port()}
}

// stale tells whether a flow goes to an endpoint that the frontend does not have, or past the endpoints
// that it has by now. Flows to anything else are not ours to judge.
func (t *udpTable) stale(f conntrack.Flow) bool {
	key := frontendOf(f)
	answers := netip.AddrPortFrom(f.Reply.Src.Addr().Unmap(), f.Reply.Src.Port())
	translated := answers != netip.AddrPortFrom(key.Addr, key.Port)
	endpoints, wanted := t.targets[key]
	switch {
	case wanted && len(endpoints) > 0:
		return !slices.Contains(endpoints, answers)
	case wanted:
		return translated
	default:
		return translated && slices.Contains(t.gone[key], answers)
	}
}

// settled is called when connection tracking has been looked through.
func (t *udpTable) settled() {
	t.suspect = false
	clear(t.gone)
}
