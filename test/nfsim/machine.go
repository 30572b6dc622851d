// Package nfsim sends packets through nftables tables without a kernel: a machine in memory with
// hooks, connection tracking, address translation and dynamic sets, which carries out what a
// state.Table says. Tests of compiled rules ask it where a packet ends and why.
//
// It does what Linux does as far as those rules can see it: the chains of all tables by hook and
// priority; connection tracking at -200; the chains of type nat, together and in the order of their
// priorities, at -100 (prerouting, output) and 100 (postrouting, input), for the first packet of a
// flow only; a flow that counts only once its first packet has got through; an accept that ends one
// base chain and not the others; a packet to the machine's own address that leaves by lo and comes
// in again.
package nfsim

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// World is what the machine has around it.
type World struct {
	// Local are the machine's own addresses; loopback always is.
	Local []netip.Addr
	// Route gives the link towards an address that is not local, and the machine's address there,
	// which Masquerade takes; an empty link means that there is no route.
	Route func(netip.Addr) (link string, source netip.Addr)
	// Random draws a number below n; nil always draws 0.
	Random func(n uint32) uint32
	// LimitsExceeded makes every limit statement refuse to match.
	LimitsExceeded bool
	// Quiet leaves Trace and By of results empty, which makes a packet several times cheaper.
	Quiet bool
}

// Machine is one machine. Not for use by several goroutines.
type Machine struct {
	World
	tables  []*table
	bases   map[state.Hook][]base
	flows   map[tuple]*Flow
	now     time.Duration
	dynamic map[string]map[state.Value]remembered // by table/set
	counts  map[string]int                        // by table/counter
}

type table struct {
	state.Table
	chains map[string]*state.Chain
	sets   map[string]*set
}

// base is a base chain with its table.
type base struct {
	table *table
	chain *state.Chain
}

// remembered is an element of a dynamic set.
type remembered struct {
	data    state.Value
	expires time.Duration // 0 means never
}

// New is a machine without any tables.
func New(w World) *Machine {
	m := &Machine{World: w, flows: map[tuple]*Flow{}, dynamic: map[string]map[state.Value]remembered{}, counts: map[string]int{}}
	m.Load()
	return m
}

// Load replaces all tables. Flows, counters and the elements of dynamic sets stay.
func (m *Machine) Load(tables ...state.Table) {
	m.tables, m.bases = nil, map[state.Hook][]base{}
	for _, t := range tables {
		one := &table{Table: t, chains: map[string]*state.Chain{}, sets: map[string]*set{}}
		for i := range t.Chains {
			one.chains[t.Chains[i].Name] = &t.Chains[i]
		}
		for _, s := range t.Sets {
			one.sets[s.Name] = newSet(s)
		}
		m.tables = append(m.tables, one)
	}
	for _, t := range m.tables {
		for _, c := range t.chains {
			if c.IsBase() {
				m.bases[c.Hook] = append(m.bases[c.Hook], base{t, c})
			}
		}
	}
	for _, list := range m.bases {
		slices.SortFunc(list, func(a, b base) int {
			return cmp.Or(cmp.Compare(a.chain.Priority, b.chain.Priority), cmp.Compare(a.table.Name, b.table.Name), cmp.Compare(a.chain.Name, b.chain.Name))
		})
	}
}

// Advance lets time pass.
func (m *Machine) Advance(d time.Duration) { m.now += d }

// Count is how often a named counter of a table has counted.
func (m *Machine) Count(table, counter string) int { return m.counts[table+"/"+counter] }

// Remembered are the keys of a dynamic set of a table that have not expired, sorted.
func (m *Machine) Remembered(table, set string) []state.Value {
	var out []state.Value
	for k, e := range m.dynamic[table+"/"+set] {
		if m.alive(e) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (m *Machine) alive(e remembered) bool { return e.expires == 0 || m.now < e.expires }

// Flows are the entries of connection tracking, in no order.
func (m *Machine) Flows() []*Flow {
	var out []*Flow
	for t, f := range m.flows {
		if t == f.Original.tuple() {
			out = append(out, f)
		}
	}
	return out
}

// Forget deletes entries of connection tracking.
func (m *Machine) Forget(which func(*Flow) bool) {
	for t, f := range m.flows {
		if which(f) {
			delete(m.flows, t)
		}
	}
}

func (m *Machine) isLocal(a netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(m.Local, a)
}

func (m *Machine) route(a netip.Addr) (string, netip.Addr) {
	if m.isLocal(a) {
		return "lo", a
	}
	if m.Route == nil {
		return "", netip.Addr{}
	}
	return m.Route(a)
}
