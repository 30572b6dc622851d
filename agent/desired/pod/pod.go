// Package pod computes what the Pods of this node need of it: one route per address, and their host
// ports. It is pure.
package pod

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/state"
)

// Input is all that the plan depends on. Order and repetition do not matter.
type Input struct {
	Attachments []state.Attachment
	// Links are the names of the links that the node has. A Pod whose link is not there yet, or
	// not any more, gets no route: CNI ADD writes it together with the link.
	Links []string
}

// Output is what the kernel should have.
type Output struct {
	// Routes lead to the Pods, sorted.
	Routes []state.Route
	// HostPorts lead from the node's ports to the Pods, sorted.
	HostPorts []filter.HostPort
}

// Plan computes the wanted state.
func Plan(in Input) Output {
	there := make(map[string]bool, len(in.Links))
	for _, name := range in.Links {
		there[name] = true
	}
	var out Output
	for _, a := range in.Attachments {
		out.HostPorts = append(out.HostPorts, HostPorts(a)...)
		if !there[a.HostLink] {
			continue
		}
		for _, ip := range a.Addresses {
			out.Routes = append(out.Routes, state.Route{Dst: netip.PrefixFrom(ip, ip.BitLen()), Dev: a.HostLink})
		}
	}
	out.Routes = state.SortRoutes(out.Routes)
	slices.SortFunc(out.HostPorts, compare)
	out.HostPorts = slices.Compact(out.HostPorts)
	return out
}

// HostPorts are the host ports of one attachment, one for each of its addresses that has the family
// of the host address.
func HostPorts(a state.Attachment) []filter.HostPort {
	var out []filter.HostPort
	for _, h := range a.HostPorts {
		for _, ip := range a.Addresses {
			if h.HostIP.IsValid() && state.FamilyOf(h.HostIP) != state.FamilyOf(ip) {
				continue
			}
			out = append(out, filter.HostPort{
				Protocol: uint8(h.Protocol), HostIP: h.HostIP, Port: h.HostPort, PodIP: ip, PodPort: h.ContainerPort,
			})
		}
	}
	return out
}

func compare(a, b filter.HostPort) int {
	return cmp.Or(
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.HostIP.Compare(b.HostIP),
		a.PodIP.Compare(b.PodIP), cmp.Compare(a.PodPort, b.PodPort),
	)
}
