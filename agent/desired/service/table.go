package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// DefaultAffinity is the timeout that Services have unless they say otherwise. Its rules are always
// there.
const DefaultAffinity = 3 * time.Hour

// The sets and maps; each exists per family, with this name and its version number. A frontend is
// address . protocol . port as a packet has them before translation.
const (
	mapServices   = "services"       // frontend : class
	mapInside     = "inside"         // the same for connections from within, where externalTrafficPolicy is Local
	mapGuarded    = "guarded"        // the same for those that source ranges let through
	setSources    = "sources"        // frontend . source: who may
	setHairpin    = "hairpin"        // address of an endpoint of this node, twice
	setClusterIPs = "cluster-ips"    // all ClusterIPs
	setCIDRs      = "service-cidrs"  // where ClusterIPs come from
	mapAffinity   = "affinity"       // client . frontend : number of its endpoint
	vmapServices  = "dispatch"       // class : chain
	vmapGuarded   = "guarded-class"  // the same behind source ranges
	vmapInside    = "inside-class"   // the same for connections from within
	chainIn       = "nat-prerouting" // base chains
	chainOut      = "nat-output"
	chainPost     = "nat-postrouting"
	chainServices = "services"
	chainRanges   = "ranges"
	chainInside   = "inside"
	chainReject   = "reject"
	chainMasq     = "masquerade"
	chainForward  = "filter-forward"
	chainInvalid  = "invalid"
	podLinks      = "weftp*" // the host's ends of Pod interfaces
)

// Priorities: after the host ports of the mesh's table, and before its masquerade, which lets pass what
// goes into the mesh.
const (
	priorityDst = state.PriorityDstNAT + 1
	prioritySrc = state.PrioritySrcNAT - 1
)

// CounterInvalid counts the packets of endpoints that connection tracking could make nothing of.
const CounterInvalid = "invalid"

// affinitySize bounds how many clients are remembered per family; beyond it clients are served and not
// remembered. An entry takes some 150 bytes of the kernel's memory.
const affinitySize = 1 << 18

// scope is a set of endpoint maps with the chains that choose from it: those of policy Cluster, or
// of externalTrafficPolicy Local.
type scope struct {
	// endpoints: frontend . slot (or number, with affinity) : address . port
	// slots: frontend . slot : number;  draws: frontend : size
	endpoints, slots, draws string
	chain, sticky           string // beginning of the names of the chains per size and per timeout
	pinned, draw            string
	kind, stickyKind        uint32
	local                   bool
}

var (
	clusterScope = scope{"endpoints", "slots", "draws", "cluster", "sticky", "pinned", "draw", kindCluster, kindSticky, false}
	localScope   = scope{"local-endpoints", "local-slots", "local-draws", "local", "local-sticky", "local-pinned", "local-draw", kindLocal, kindLocalSticky, true}
	scopes       = []scope{clusterScope, localScope}
)

// family holds what differs between IPv4 and IPv6.
type family struct {
	version      state.Family
	suffix       string
	proto        state.Value
	addr         state.DataType
	saddr, daddr state.Field
	// names are those that elements ask for, made once and not with each of them.
	names map[string]string
}

var families = []family{
	{state.IPv4, "4", state.NFProtoIPv4, state.TypeIPv4, state.FieldIPSaddr, state.FieldIPDaddr, namesOfSets("4")},
	{state.IPv6, "6", state.NFProtoIPv6, state.TypeIPv6, state.FieldIP6Saddr, state.FieldIP6Daddr, namesOfSets("6")},
}

func namesOfSets(suffix string) map[string]string {
	names := map[string]string{}
	for _, of := range []string{mapServices, mapInside, mapGuarded, setSources, setHairpin, setClusterIPs} {
		names[of] = of + suffix
	}
	for _, s := range scopes {
		for _, of := range []string{s.endpoints, s.slots, s.draws} {
			names[of] = of + suffix
		}
	}
	return names
}

func familyOf(a netip.Addr) *family {
	if state.FamilyOf(a) == state.IPv4 {
		return &families[0]
	}
	return &families[1]
}

func (f *family) name(of string) string {
	if name, ok := f.names[of]; ok {
		return name
	}
	return of + f.suffix
}

func (f family) sized(chain string, n int) string { return fmt.Sprintf("%s%s-%d", chain, f.suffix, n) }

func (f family) timed(chain string, t time.Duration) string {
	return fmt.Sprintf("%s%s-%s", chain, f.suffix, seconds(t))
}

// frontend are the fields that a frontend is found by, with more behind them.
func (f family) frontend(more ...state.Field) []state.Field {
	return append(state.Fields(f.daddr, state.FieldL4Proto, state.FieldTHDport), more...)
}

// client are the fields that the affinity of a client is found by.
func (f family) client() []state.Field { return append(state.Fields(f.saddr), f.frontend()...) }

func rule(s ...state.Statement) state.ChainRule { return state.ChainRule{Statements: s} }

func on(f state.Field, link string) state.Statement {
	return state.Cmp{Field: f, Value: state.IfNameValue(link)}
}

func (f family) fromMap(name string, fields []state.Field) state.Statement {
	return state.SetMark{Fields: fields, Map: f.name(name)}
}

func (f family) dispatch(vmap string) state.Statement {
	return state.VMapLookup{Fields: state.Fields(state.FieldMark), Map: f.name(vmap)}
}

// Table is the table with its fixed rules, what follows from the node, and no Service in it. timeouts
// are those of all Services with affinity; each has a few rules of its own.
func Table(node snapshot.ServiceNode, timeouts []time.Duration) state.Table {
	timeouts = append(slices.Clone(timeouts), DefaultAffinity)
	slices.Sort(timeouts)
	timeouts = slices.Compact(timeouts)
	t := state.Table{
		Family: "inet", Name: state.ServiceTableName, Counters: []string{CounterInvalid},
		Chains: []state.Chain{
			{Name: chainIn, Type: state.ChainNAT, Hook: state.HookPrerouting, Priority: priorityDst, Rules: entry()},
			{Name: chainOut, Type: state.ChainNAT, Hook: state.HookOutput, Priority: priorityDst, Rules: entry()},
			{Name: chainPost, Type: state.ChainNAT, Hook: state.HookPostrouting, Priority: prioritySrc, Rules: exit()},
			{Name: chainForward, Type: state.ChainFilter, Hook: state.HookForward, Priority: state.PriorityFilter, Rules: forward()},
			masquerade(), reject(), invalid(),
		},
	}
	for _, f := range families {
		t.Chains = append(t.Chains, f.services(), f.ranges(), f.inside())
		for _, s := range scopes {
			t.Chains = append(t.Chains, f.scopeChains(s, timeouts)...)
		}
		t.Sets = append(t.Sets, f.sets(node)...)
		t.Sets = append(t.Sets, f.dispatchMaps(timeouts)...)
	}
	return t.Sorted()
}
