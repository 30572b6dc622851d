//go:build linux

package bpf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func aps(s ...string) (out []netip.AddrPort) {
	for _, x := range s {
		out = append(out, ap(x))
	}
	return out
}

func TestTheOlderOwnerHasAContestedFrontend(t *testing.T) {
	b, a := newBook(), ap("192.0.2.1:80")
	want := func(owner string) {
		t.Helper()
		if got := b.held[toAddress(a)].by; owner == "" && got != nil || owner != "" && (got == nil || got.Owner != owner) {
			t.Errorf("%s has the frontend, want %q", got.Owner, owner)
		}
	}
	set := func(owner string, age int64, endpoints ...string) {
		t.Helper()
		var fs []state.SocketFrontend
		if len(endpoints) > 0 {
			fs = []state.SocketFrontend{{Address: a, Endpoints: aps(endpoints...)}}
		}
		if _, err := b.set(Wanted{owner, age, fs}); err != nil {
			t.Fatal(err)
		}
	}
	set("young", 9, "10.244.0.9:80")
	want("young")
	set("old", 1, "10.244.0.1:80")
	want("old")
	set("b-same-age", 1, "10.244.0.2:80")
	want("b-same-age") // by name
	set("b-same-age", 5, "10.244.0.2:80")
	want("old")
	set("old", 1)
	want("b-same-age")
	set("b-same-age", 5)
	want("young")
	set("young", 9)
	want("")
	if len(b.owners)+len(b.held)+len(b.contested) != 0 {
		t.Errorf("something stayed: %+v", b)
	}
}

// random makes a frontend out of few addresses and endpoints, so that owners meet often.
func random(r *rand.Rand, a netip.AddrPort) state.SocketFrontend {
	f := state.SocketFrontend{Address: a}
	for range r.IntN(4) {
		ip := "10.244.0.%d:80"
		if a.Addr().Is6() {
			ip = "[fd00::%d]:80"
		}
		f.Endpoints = append(f.Endpoints, ap(fmt.Sprintf(ip, 1+r.IntN(3))))
	}
	if r.IntN(3) == 0 {
		f.Affinity, f.Group = time.Hour, "g"
	}
	return f
}

func randomWanted(r *rand.Rand, owner string) Wanted {
	w := Wanted{Owner: owner, Age: int64(r.IntN(2))}
	for _, a := range aps("192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "[2001:db8::1]:80", "[2001:db8::2]:80") {
		if r.IntN(2) == 0 {
			w.Frontends = append(w.Frontends, random(r, a))
		}
	}
	return w
}

// naive is what a book must hold, worked out from nothing but the present wishes.
func naive(wishes map[string]Wanted) map[netip.AddrPort]state.SocketFrontend {
	var order []Wanted
	for _, w := range wishes {
		order = append(order, w)
	}
	slices.SortFunc(order, func(a, b Wanted) int { return b.compare(&a) }) // the last one wins
	out := map[netip.AddrPort]state.SocketFrontend{}
	for _, w := range order {
		for _, f := range state.SortSocketFrontends(w.Frontends) {
			out[f.Address] = f
		}
	}
	return out
}

// tableModel is what the tables would hold, and fails where a reader would be led nowhere.
type tableModel struct {
	services map[address]entry
	pools    map[uint32][]netip.AddrPort
}

func (m *tableModel) apply(t *testing.T, c change) {
	t.Helper()
	whole := func(step string) {
		t.Helper()
		for a, e := range m.services {
			if got, ok := m.pools[e.pool.id]; !ok || !slices.Equal(got, e.pool.endpoints) {
				t.Fatalf("after %s, %s leads to pool %d with %v, want %v", step, a.addrPort(), e.pool.id, got, e.pool.endpoints)
			}
		}
	}
	for _, p := range c.addPools {
		if _, ok := m.pools[p.id]; ok {
			t.Fatalf("pool %d is added twice", p.id)
		}
		m.pools[p.id] = slices.Clone(p.endpoints)
	}
	whole("adding pools")
	for _, p := range c.put {
		m.services[p.frontend] = p.entry
		whole("putting a frontend")
	}
	for _, a := range c.remove {
		delete(m.services, a)
	}
	for _, p := range c.removePools {
		if _, ok := m.pools[p.id]; !ok {
			t.Fatalf("pool %d is removed twice", p.id)
		}
		delete(m.pools, p.id)
		whole("removing a pool")
	}
}

func (m *tableModel) size() (s size) {
	s.services = uint32(len(m.services))
	sticky := map[uint32]bool{}
	for _, e := range m.services {
		sticky[e.pool.id] = e.pool.sticky
	}
	for id, p := range m.pools {
		s.endpoints += uint32(len(p))
		if sticky[id] {
			s.members += uint32(len(p))
		}
	}
	return s
}

func TestRandomWishesEndInTheTables(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, l := newBook(), newLedger()
		m := tableModel{map[address]entry{}, map[uint32][]netip.AddrPort{}}
		wishes := map[string]Wanted{}
		for range 30 {
			w := randomWanted(r, string(rune('a'+r.IntN(4))))
			changed, err := b.set(w)
			if err != nil {
				t.Fatal(err)
			}
			if wishes[w.Owner] = w; len(w.Frontends) == 0 {
				delete(wishes, w.Owner)
			}
			m.apply(t, l.plan(changed, b.held))
			compare(t, m, naive(wishes))
			if l.size != m.size() {
				t.Fatalf("seed %d: the ledger counts %s, the tables hold %s", seed, l.size, m.size())
			}
			if again, _ := b.set(w); len(again) != 0 {
				t.Fatalf("seed %d: the same again changes %v", seed, again)
			}
		}
		// All at once leads to the same as one by one.
		whole := newBook()
		var all []Wanted
		for _, w := range wishes {
			all = append(all, w)
		}
		if _, err := whole.reset(all); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(whole.inForce()), fmt.Sprint(b.inForce()); got != want {
			t.Fatalf("seed %d: at once %s\none by one %s", seed, got, want)
		}
		changed, _ := b.reset(nil)
		if m.apply(t, l.plan(changed, b.held)); len(m.services)+len(m.pools) != 0 || l.size != (size{}) {
			t.Fatalf("seed %d: something stayed: %v, %v, %s", seed, m.services, m.pools, l.size)
		}
	}
}

func compare(t *testing.T, m tableModel, want map[netip.AddrPort]state.SocketFrontend) {
	t.Helper()
	for a, f := range want {
		e, ok := m.services[toAddress(a)]
		if !ok || !e.same(f) {
			t.Fatalf("%s leads to %+v, want %s", a, e, f)
		}
	}
	for a := range m.services {
		if _, ok := want[a.addrPort()]; !ok {
			t.Fatalf("%s is in the tables, nobody wants it", a.addrPort())
		}
	}
}

func TestFrontendsOfOneServiceShareEndpoints(t *testing.T) {
	b, l := newBook(), newLedger()
	w := Wanted{Owner: "a/b"}
	for i := range 6 {
		w.Frontends = append(w.Frontends, state.SocketFrontend{Address: ap(fmt.Sprintf("192.0.2.%d:80", i)), Endpoints: aps("10.244.0.1:80", "10.244.0.2:80")})
	}
	changed, err := b.set(w)
	if err != nil {
		t.Fatal(err)
	}
	if c := l.plan(changed, b.held); len(c.addPools) != 1 || l.size != (size{services: 6, endpoints: 2}) {
		t.Errorf("%s, holding %s; want one pool of two endpoints", c, l.size)
	}
}

func TestAFaultyWishChangesNothing(t *testing.T) {
	b := newBook()
	if _, err := b.set(Wanted{Owner: "a", Frontends: []state.SocketFrontend{{Address: ap("192.0.2.1:80")}}}); err != nil {
		t.Fatal(err)
	}
	_, err := b.set(Wanted{Owner: "a", Frontends: []state.SocketFrontend{
		{Address: ap("192.0.2.2:80"), Endpoints: aps("[fd00::1]:80")}, {Address: ap("192.0.2.3:80")}, {Address: ap("192.0.2.3:80")},
	}})
	if err == nil || !strings.Contains(err.Error(), "same family") || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("want both faults, got %v", err)
	}
	if got := fmt.Sprint(b.inForce()); got != "[192.0.2.1:80 -> refused]" {
		t.Error(got)
	}
}
