package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// What Weftnet marks as its own in a node's routing tables, so that it never touches another's.
const (
	// RouteProtocol is the protocol number of every route that Weftnet writes.
	RouteProtocol = 87
	// RulePriorityMin and RulePriorityMax bound the priorities of Weftnet's policy rules.
	RulePriorityMin = 8700
	RulePriorityMax = 8799
	// TableMain is the kernel's main routing table.
	TableMain uint32 = 254
	// TableWeft is the table through which Pods reach the addresses of other nodes.
	TableWeft uint32 = 87
)

// Family is an address family.
type Family uint8

// The address families, by their version number.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address; an IPv4-mapped IPv6 address counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	default:
		return fmt.Sprintf("family(%d)", uint8(f))
	}
}

// RouteType says what happens to a packet that takes the route.
type RouteType uint8

// The route types in use.
const (
	Unicast     RouteType = iota // sent to Dev (and Gateway)
	Unreachable                  // refused with an ICMP error
)

func (t RouteType) String() string {
	switch t {
	case Unicast:
		return "unicast"
	case Unreachable:
		return "unreachable"
	default:
		return fmt.Sprintf("type(%d)", uint8(t))
	}
}

// RouteScope is how far away the destination is. The zero value leaves the choice to the kernel's
// convention (link where there is no gateway, else global).
type RouteScope uint8

// The scopes in use.
const (
	ScopeAuto RouteScope = iota
	ScopeGlobal
	ScopeLink
)

// Route is one route. Its identity is table, destination and metric, as in the kernel: a route
// with the same identity replaces it.
type Route struct {
	// Table is the routing table; 0 means main.
	Table uint32
	// Dst is the destination, masked.
	Dst netip.Prefix
	// Dev is the outgoing link's name; empty for an unreachable route.
	Dev  string
	Type RouteType
	// Src is the preferred source address; invalid means none.
	Src netip.Addr
	// Gateway is the next hop; invalid means none.
	Gateway netip.Addr
	// Metric orders routes to one destination, the lowest first. 0 means the kernel's default
	// (0 for IPv4, 1024 for IPv6).
	Metric uint32
	// MTU and AdvMSS in bytes; 0 means not set.
	MTU, AdvMSS uint32
	Scope       RouteScope
}

// defaultMetric6 is what Linux writes for an IPv6 route without a metric (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

// Normalized is the route as the kernel would print it: table, metric and scope filled in, the
// destination masked.
func (r Route) Normalized() Route {
	if r.Table == 0 {
		r.Table = TableMain
	}
	r.Dst = r.Dst.Masked()
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		r.Metric = defaultMetric6
	}
	if r.Type == Unreachable {
		r.Dev = ""
	}
	switch {
	case r.Dst.Addr().Is6() || r.Type == Unreachable:
		r.Scope = ScopeGlobal // the kernel keeps no scope for IPv6
	case r.Scope == ScopeAuto && r.Gateway.IsValid():
		r.Scope = ScopeGlobal
	case r.Scope == ScopeAuto:
		r.Scope = ScopeLink
	}
	return r
}

// RouteKey is a route's identity in the kernel.
type RouteKey struct {
	Table  uint32
	Dst    netip.Prefix
	Metric uint32
}

// Key is the identity of the route.
func (r Route) Key() RouteKey {
	n := r.Normalized()
	return RouteKey{Table: n.Table, Dst: n.Dst, Metric: n.Metric}
}

// Equal tells whether both mean the same route.
func (r Route) Equal(o Route) bool { return r.Normalized() == o.Normalized() }

// Compare orders routes by table, destination, metric, then everything else.
func (r Route) Compare(o Route) int {
	a, b := r.Normalized(), o.Normalized()
	return cmp.Or(
		cmp.Compare(a.Table, b.Table),
		comparePrefix(a.Dst, b.Dst),
		cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.Type, b.Type),
		cmp.Compare(a.Dev, b.Dev),
		a.Gateway.Compare(b.Gateway),
		a.Src.Compare(b.Src),
		cmp.Compare(a.MTU, b.MTU),
		cmp.Compare(a.AdvMSS, b.AdvMSS),
		cmp.Compare(a.Scope, b.Scope),
	)
}

// String prints the route as `ip route` does.
func (r Route) String() string {
	n := r.Normalized()
	var b strings.Builder
	if n.Type != Unicast {
		b.WriteString(n.Type.String() + " ")
	}
	b.WriteString(n.Dst.String())
	if n.Gateway.IsValid() {
		b.WriteString(" via " + n.Gateway.String())
	}
	if n.Dev != "" {
		b.WriteString(" dev " + n.Dev)
	}
	if n.Table != TableMain {
		fmt.Fprintf(&b, " table %d", n.Table)
	}
	fmt.Fprintf(&b, " proto %d", RouteProtocol)
	if n.Scope == ScopeLink {
		b.WriteString(" scope link")
	}
	if n.Src.IsValid() {
		b.WriteString(" src " + n.Src.String())
	}
	for _, f := range []struct {
		name  string
		value uint32
	}{{"metric", n.Metric}, {"mtu", n.MTU}, {"advmss", n.AdvMSS}} {
		if f.value != 0 {
			fmt.Fprintf(&b, " %s %d", f.name, f.value)
		}
	}
	return b.String()
}

// SortRoutes returns the routes sorted and without repetition, in a slice of its own.
func SortRoutes(routes []Route) []Route {
	out := make([]Route, len(routes))
	for i, r := range routes {
		out[i] = r.Normalized()
	}
	slices.SortFunc(out, Route.Compare)
	return slices.CompactFunc(out, Route.Equal)
}

// Rule is one policy rule: packets that match it look up Table.
type Rule struct {
	Priority int
	Family   Family
	// From and To match the packet's addresses; the zero value matches any.
	From, To netip.Prefix
	// IIF matches the incoming link by name; empty matches any.
	IIF   string
	Table uint32
}

// Normalized fills in the family from the addresses and masks them.
func (r Rule) Normalized() Rule {
	for _, p := range []*netip.Prefix{&r.From, &r.To} {
		if p.IsValid() {
			*p = p.Masked()
			r.Family = FamilyOf(p.Addr())
			if p.Bits() == 0 {
				*p = netip.Prefix{}
			}
		}
	}
	return r
}

// Equal tells whether both mean the same rule.
func (r Rule) Equal(o Rule) bool { return r.Normalized() == o.Normalized() }

// Compare orders rules by family, priority, then everything else.
func (r Rule) Compare(o Rule) int {
	a, b := r.Normalized(), o.Normalized()
	return cmp.Or(
		cmp.Compare(a.Family, b.Family),
		cmp.Compare(a.Priority, b.Priority),
		comparePrefix(a.From, b.From),
		comparePrefix(a.To, b.To),
		cmp.Compare(a.IIF, b.IIF),
		cmp.Compare(a.Table, b.Table),
	)
}

// String prints the rule as `ip rule` does.
func (r Rule) String() string {
	n := r.Normalized()
	from := "all"
	if n.From.IsValid() {
		from = n.From.String()
	}
	s := fmt.Sprintf("%d: from %s", n.Priority, from)
	if n.To.IsValid() {
		s += " to " + n.To.String()
	}
	if n.IIF != "" {
		s += " iif " + n.IIF
	}
	s += fmt.Sprintf(" lookup %d", n.Table)
	if n.Family == IPv6 && !n.From.IsValid() && !n.To.IsValid() {
		s += " # ipv6"
	}
	return s
}

// SortRules returns the rules sorted and without repetition, in a slice of its own.
func SortRules(rules []Rule) []Rule {
	out := make([]Rule, len(rules))
	for i, r := range rules {
		out[i] = r.Normalized()
	}
	slices.SortFunc(out, Rule.Compare)
	return slices.CompactFunc(out, Rule.Equal)
}

// comparePrefix orders prefixes by address, then by length: the invalid one first, then IPv4.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
