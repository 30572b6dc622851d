package filter

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// HostPort leads a port of the node to a port of a Pod.
type HostPort struct {
	// Protocol is the transport protocol's number.
	Protocol uint8
	// HostIP is the node's address that is listened on; the zero value and the unspecified address
	// mean all of the Pod address's family.
	HostIP netip.Addr
	// Port is the node's port.
	Port uint16
	// PodIP and PodPort are where it leads.
	PodIP   netip.Addr
	PodPort uint16
}

// anyHostIP tells whether the port is open on all of the node's addresses.
func (h HostPort) anyHostIP() bool { return !h.HostIP.IsValid() || h.HostIP.IsUnspecified() }

// valid tells whether a rule can be made of it.
func (h HostPort) valid() bool {
	return h.PodIP.IsValid() && h.Port != 0 && h.PodPort != 0 && h.Protocol != 0 &&
		(h.anyHostIP() || state.FamilyOf(h.HostIP) == state.FamilyOf(h.PodIP))
}

func (h HostPort) compare(o HostPort) int {
	return cmp.Or(
		cmp.Compare(h.Protocol, o.Protocol), h.HostIP.Compare(o.HostIP), cmp.Compare(h.Port, o.Port),
		h.PodIP.Compare(o.PodIP), cmp.Compare(h.PodPort, o.PodPort),
	)
}

// Pod is a Pod of this node: the host's end of its interface, and its addresses.
type Pod struct {
	Link      string
	Addresses []netip.Addr
}

// Input is all that the table depends on. Order and repetition do not matter.
type Input struct {
	// ClusterCIDRs are the ranges of all pools: the addresses that must not cross the underlay.
	ClusterCIDRs []netip.Prefix
	// NodeIPs are the addresses of all nodes, this one's among them. Pods reach them through the
	// mesh with their own address, or not at all.
	NodeIPs []netip.Addr
	// NoMasquerade are destinations outside the cluster to which Pods keep their own address, and
	// from which packets may therefore come in to Pods. They go in the clear, as the user asked;
	// the cluster's ranges and the nodes' addresses are never part of them.
	NoMasquerade []netip.Prefix
	// Pods of this node. Each sends from its own addresses only.
	Pods []Pod
	// HostPorts of the Pods of this node.
	HostPorts []HostPort
}

// The named counters of the table.
const (
	CounterIn      = "failclosed-in"  // came in with a cluster address from the underlay
	CounterOut     = "failclosed-out" // was about to leave with a cluster address to the underlay
	CounterSpoofed = "spoofed"        // left a Pod with an address that is not the Pod's
)

// Names of sets and maps; each exists per family, with this name and its version number.
const (
	setCluster   = "cluster"   // the pools' ranges
	setNodes     = "nodes"     // the nodes' addresses
	setPlain     = "plain"     // destinations without masquerade
	setPods      = "pods"      // Pod interface . address of the Pod
	setHairpin   = "hairpin"   // address of a Pod with a host port, twice: what comes back to its sender
	setHostPorts = "hostports" // protocol . port, of any address and family
	mapHostPort  = "hostport"  // protocol . port : Pod address . port
	mapHostPortA = "hostaddr"  // node address . protocol . port : Pod address . port
	chainIn      = "failclosed-in"
	chainFromPod = "from-pod"
	chainHPIn    = "hostport-in"
	chainHPOut   = "hostport-out"
	chainHP      = "hostport"
	chainMasq    = "masquerade"
	chainToPod   = "hairpin"
	chainOut     = "failclosed-out"
	chainQuoted  = "quoted" // ICMP errors on their way out, by what they quote; per family
	meshLinks    = "weft*"  // mesh devices, Pod interfaces and their helpers
	podLinks     = "weftp*" // the host's ends of Pod interfaces
)

// priorityFailClosedOut is behind every source NAT, also another program's: all NAT of new
// connections happens at srcnat (100), and connection tracking helpers run at 300.
const priorityFailClosedOut = 300

// family holds what differs between IPv4 and IPv6.
type family struct {
	version      state.Family
	suffix       string
	proto        state.Value
	addr         state.DataType
	saddr, daddr state.Field
	loopback     netip.Prefix

	// ICMP errors: the field of their type, their types, and the addresses that they quote.
	icmpType                 state.Field
	icmpErrors               []uint8
	quotedSaddr, quotedDaddr state.Field
}

var families = []family{
	{
		version: state.IPv4, suffix: "4", proto: state.NFProtoIPv4, addr: state.TypeIPv4,
		saddr: state.FieldIPSaddr, daddr: state.FieldIPDaddr, loopback: netip.MustParsePrefix("127.0.0.0/8"),
		// RFC 792: destination unreachable, redirect, time exceeded, parameter problem.
		icmpType: state.FieldICMPType, icmpErrors: []uint8{3, 5, 11, 12},
		quotedSaddr: state.FieldQuotedSaddr, quotedDaddr: state.FieldQuotedDaddr,
	},
	{
		version: state.IPv6, suffix: "6", proto: state.NFProtoIPv6, addr: state.TypeIPv6,
		saddr: state.FieldIP6Saddr, daddr: state.FieldIP6Daddr, loopback: netip.MustParsePrefix("::1/128"),
		// RFC 4443: destination unreachable, packet too big, time exceeded, parameter problem.
		icmpType: state.FieldICMPv6Type, icmpErrors: []uint8{1, 2, 3, 4},
		quotedSaddr: state.FieldQuoted6Saddr, quotedDaddr: state.FieldQuoted6Daddr,
	},
}

func (f family) name(set string) string { return set + f.suffix }

// from and to match a packet's source or destination against a set.
func (f family) from(set string) state.Statement {
	return state.InSet{Fields: state.Fields(f.saddr), Set: f.name(set)}
}

func (f family) to(set string) state.Statement {
	return state.InSet{Fields: state.Fields(f.daddr), Set: f.name(set)}
}

func (f family) notFrom(set string) state.Statement {
	return state.InSet{Fields: state.Fields(f.saddr), Set: f.name(set), Not: true}
}

func (f family) notTo(set string) state.Statement {
	return state.InSet{Fields: state.Fields(f.daddr), Set: f.name(set), Not: true}
}

// Table is the whole wanted table.
func Table(in Input) state.Table {
	t := state.Table{
		Family:   "inet",
		Name:     state.TableName,
		Counters: []string{CounterIn, CounterOut, CounterSpoofed},
		Chains: []state.Chain{
			failClosedIn(), fromPod(), failClosedOut(), masquerade(), hairpin(),
			{Name: chainHPIn, Type: state.ChainNAT, Hook: state.HookPrerouting, Priority: state.PriorityDstNAT, Rules: toHostPorts()},
			{Name: chainHPOut, Type: state.ChainNAT, Hook: state.HookOutput, Priority: state.PriorityDstNAT, Rules: toHostPorts()},
			hostPorts(),
		},
	}
	t.Sets = append(t.Sets, portSet(in.HostPorts))
	for _, f := range families {
		t.Chains = append(t.Chains, f.quoted())
		t.Sets = append(t.Sets, f.addressSets(in)...)
		t.Sets = append(t.Sets, f.podSet(in.Pods))
		t.Sets = append(t.Sets, f.hostPortSets(in)...)
	}
	return t.Sorted()
}

func rule(s ...state.Statement) state.ChainRule { return state.ChainRule{Statements: s} }

func on(f state.Field, link string) state.Statement {
	return state.Cmp{Field: f, Value: state.IfNameValue(link)}
}

func dropCounted(counter string, s ...state.Statement) state.ChainRule {
	return rule(append(slices.Clone(s), state.Count{Name: counter}, state.Drop)...)
}

// failClosedIn judges what comes in, before connection tracking can give it another address. A Pod may
// send from its own addresses only, and not to the node's loopback, which must stay out of its reach
// even where route_localnet is on for host ports. Each packet of each Pod comes here: what is in order
// is decided by the first rule of its family; before that, what the node sends to itself is told by one comparison, where
// the look-ups cost it 2 to 3 % of a connect.
func failClosedIn() state.Chain {
	rules := []state.ChainRule{rule(on(state.FieldIIFName, "lo"), state.Accept)}
	for _, f := range families {
		own := state.InSet{Fields: state.Fields(state.FieldIIFName, f.saddr), Set: f.name(setPods)}
		if f.version == state.IPv4 {
			rules = append(rules, rule(own, state.InPrefix{Field: f.daddr, Not: true, Prefix: f.loopback}, state.Accept))
		} else {
			rules = append(rules, rule(own, state.Accept)) // ::1 from outside is a martian whatever the settings
		}
	}
	rules = append(rules,
		rule(on(state.FieldIIFName, podLinks), state.Goto(chainFromPod)),
		rule(on(state.FieldIIFName, meshLinks), state.Accept),
	)
	for _, f := range families {
		rules = append(rules,
			dropCounted(CounterIn, f.from(setCluster)),
			rule(f.to(setCluster), f.from(setPlain), f.notFrom(setNodes), state.Accept),
			dropCounted(CounterIn, f.to(setCluster)),
		)
	}
	return state.Chain{
		Name: chainIn, Type: state.ChainFilter, Hook: state.HookPrerouting, Priority: state.PriorityRaw, Rules: rules,
	}
}

// fromPod gets what does not come from a Pod's own address. Link-local and unspecified IPv6 sources are
// neighbour discovery, and are not forwarded.
func fromPod() state.Chain {
	return state.Chain{Name: chainFromPod, Rules: []state.ChainRule{
		rule(state.InPrefix{Field: state.FieldIP6Saddr, Prefix: netip.MustParsePrefix("fe80::/10")}, state.Accept),
		rule(state.Cmp{Field: state.FieldIP6Saddr, Value: state.AddrValue(netip.IPv6Unspecified())}, state.Accept),
		rule(state.Count{Name: CounterSpoofed}, state.Drop),
	}}
}

// failClosedOut judges what leaves, after all address translation. On its way into the mesh a TCP
// handshake takes the route's MTU, for where path MTU discovery does not work: here, and not in a chain
// of its own, since a chain costs each packet more than a rule.
func failClosedOut() state.Chain {
	rules := []state.ChainRule{
		rule(on(state.FieldOIFName, podLinks), state.Accept),
		rule(on(state.FieldOIFName, "lo"), state.Accept),
		rule(on(state.FieldOIFName, meshLinks), state.TCPFlags{Mask: state.TCPSyn | state.TCPRst, Value: state.TCPSyn}, state.ClampMSS{}),
		rule(on(state.FieldOIFName, meshLinks), state.Accept),
	}
	for _, f := range families {
		rules = append(rules,
			dropCounted(CounterOut, f.to(setCluster)),
			rule(f.from(setCluster), f.to(setPlain), f.notTo(setNodes), state.Accept),
			dropCounted(CounterOut, f.from(setCluster)),
		)
	}
	for _, f := range families {
		for _, kind := range f.icmpErrors {
			rules = append(rules, rule(state.Cmp{Field: f.icmpType, Value: state.ByteValue(kind)}, state.Goto(f.name(chainQuoted))))
		}
	}
	return state.Chain{
		Name: chainOut, Type: state.ChainFilter, Hook: state.HookPostrouting, Priority: priorityFailClosedOut, Rules: rules,
	}
}

// quoted judges an ICMP error that is about to leave between two nodes' own addresses: it carries the
// head of the packet that it is about, with the addresses and some bytes of what a Pod was sent. One
// that says so to an address where Pods are known by their own, as the user asked, may go.
func (f family) quoted() state.Chain {
	about := func(address state.Field) state.Statement {
		return state.InSet{Fields: state.Fields(address), Set: f.name(setCluster)}
	}
	return state.Chain{Name: f.name(chainQuoted), Rules: []state.ChainRule{
		rule(f.to(setPlain), f.notTo(setNodes), state.Accept),
		dropCounted(CounterOut, about(f.quotedSaddr)),
		dropCounted(CounterOut, about(f.quotedDaddr)),
	}}
}

// masquerade gives Pod traffic that leaves the cluster the node's address. What goes to a node is
// left alone: it belongs into the mesh, and where that way is missing it is dropped at the exit.
func masquerade() state.Chain {
	rules := []state.ChainRule{
		rule(on(state.FieldOIFName, podLinks), state.Goto(chainToPod)),
		rule(on(state.FieldOIFName, meshLinks), state.Accept),
		rule(on(state.FieldOIFName, "lo"), state.Accept),
	}
	for _, f := range families {
		rules = append(rules, rule(
			f.from(setCluster), f.notTo(setCluster), f.notTo(setNodes), f.notTo(setPlain), state.Masquerade{FullyRandom: true},
		))
	}
	return state.Chain{
		Name: chainMasq, Type: state.ChainNAT, Hook: state.HookPostrouting, Priority: state.PrioritySrcNAT, Rules: rules,
	}
}

// hairpin gives the node's address to what a Pod sends to itself through a host port, which it would
// else answer to itself; and to what the node sends from its loopback.
func hairpin() state.Chain {
	var rules []state.ChainRule
	for _, f := range families {
		rules = append(rules, rule(
			state.InSet{Fields: state.Fields(f.saddr, f.daddr), Set: f.name(setHairpin)}, state.Masquerade{FullyRandom: true},
		))
	}
	for _, f := range families {
		rules = append(rules, rule(
			state.InPrefix{Field: f.saddr, Prefix: f.loopback}, state.Masquerade{FullyRandom: true},
		))
	}
	return state.Chain{Name: chainToPod, Rules: rules}
}

// toHostPorts asks first whether any Pod has the port: whether an address is local costs a look at the routes, which every
// new connection would pay.
func toHostPorts() []state.ChainRule {
	return []state.ChainRule{rule(
		state.InSet{Fields: state.Fields(state.FieldL4Proto, state.FieldTHDport), Set: setHostPorts},
		state.Cmp{Field: state.FieldFibDaddrType, Value: state.AddrTypeLocal}, state.Jump(chainHP),
	)}
}

// hostPorts sends a local address and port to the Pod: first by address, then by port alone.
func hostPorts() state.Chain {
	var rules []state.ChainRule
	for _, f := range families {
		rules = append(rules,
			rule(state.NAT{
				Family: f.version, Fields: state.Fields(f.daddr, state.FieldL4Proto, state.FieldTHDport),
				Map: f.name(mapHostPortA), MapHasPort: true,
			}),
			rule(state.Cmp{Field: state.FieldNFProto, Value: f.proto}, state.NAT{
				Family: f.version, Fields: state.Fields(state.FieldL4Proto, state.FieldTHDport),
				Map: f.name(mapHostPort), MapHasPort: true,
			}),
		)
	}
	return state.Chain{Name: chainHP, Rules: rules}
}
