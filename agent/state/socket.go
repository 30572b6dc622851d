package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// SocketFrontend is an address and TCP port at which a Service is reached, and where the connection
// of a process on this node goes instead, decided when it connects. A frontend whose answer depends on
// the packet (source ranges), or is none (DROP for lack of a local endpoint), is left out, and stays with
// the rules in nftables.
type SocketFrontend struct {
	// Address is the ClusterIP, external address, load-balancer address or node address, and the port.
	Address netip.AddrPort
	// Endpoints are of Address's family; each is as likely as the others. None means that the
	// connection is refused.
	Endpoints []netip.AddrPort
	// Affinity keeps a client at its endpoint until it has not connected for so long. Whole seconds;
	// 0 for none. A client is a network namespace: a Pod, or the node.
	Affinity time.Duration
	// Group names the frontends of a family that share a client's affinity: all those of one port of one
	// Service.
	// Without Affinity it has no meaning.
	Group string
}

// CompareSocketFrontends orders frontends by address.
func CompareSocketFrontends(a, b SocketFrontend) int { return a.Address.Compare(b.Address) }

// SortSocketFrontends returns the frontends in order, and the endpoints of each sorted and unique.
func SortSocketFrontends(frontends []SocketFrontend) []SocketFrontend {
	out := slices.Clone(frontends)
	for i := range out {
		out[i].Endpoints = slices.Compact(slices.SortedFunc(slices.Values(out[i].Endpoints), netip.AddrPort.Compare))
	}
	slices.SortFunc(out, CompareSocketFrontends)
	return out
}

// Equal says whether two frontends lead to the same endpoints in the same way. Both are sorted.
func (f SocketFrontend) Equal(g SocketFrontend) bool {
	return f.Address == g.Address && f.Affinity == g.Affinity && (f.Affinity == 0 || f.Group == g.Group) &&
		slices.Equal(f.Endpoints, g.Endpoints)
}

// Validate says what is wrong with a frontend.
func (f SocketFrontend) Validate() error {
	if !plainAddrPort(f.Address) {
		return fmt.Errorf("frontend %s: want an address, not mapped and without a zone, and a port", f.Address)
	}
	if f.Affinity < 0 || f.Affinity%time.Second != 0 || f.Affinity/time.Second > 1<<31 {
		return fmt.Errorf("frontend %s: want an affinity of whole seconds, got %s", f.Address, f.Affinity)
	}
	for _, e := range f.Endpoints {
		if !plainAddrPort(e) || FamilyOf(e.Addr()) != FamilyOf(f.Address.Addr()) {
			return fmt.Errorf("frontend %s: endpoint %s: want an address of the same family and a port", f.Address, e)
		}
	}
	return nil
}

func plainAddrPort(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().Is4In6() && a.Addr().Zone() == ""
}

// String is one line, such as "10.96.0.10:53 -> 10.244.1.5:53 10.244.2.7:53 affinity 3h0m0s of kube-system/dns:tcp".
func (f SocketFrontend) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s ->", f.Address)
	for _, e := range f.Endpoints {
		fmt.Fprintf(&b, " %s", e)
	}
	if len(f.Endpoints) == 0 {
		b.WriteString(" refused")
	}
	if f.Affinity != 0 {
		fmt.Fprintf(&b, " affinity %s of %s", f.Affinity, cmp.Or(f.Group, "(nobody)"))
	}
	return b.String()
}
