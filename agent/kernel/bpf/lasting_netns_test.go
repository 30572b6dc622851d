//go:build linux && netns

package bpf

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// stickyValue is struct sticky of program/socket.c.
type stickyValue struct {
	Last     uint64
	Endpoint address
	Zero     uint32
}

type clientKey struct{ Netns, Group uint64 }

// remembered are the clients' endpoints.
func remembered(t *testing.T, k *Kernel) map[clientKey]stickyValue {
	t.Helper()
	out := map[clientKey]stickyValue{}
	var c clientKey
	var v stickyValue
	it := k.lasting[tableAffinity].Iterate()
	for it.Next(&c, &v) {
		out[c] = v
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// age makes every client's last connection older.
func age(t *testing.T, k *Kernel, by time.Duration) {
	t.Helper()
	for c, v := range remembered(t, k) {
		v.Last -= uint64(by)
		if err := k.lasting[tableAffinity].Update(c, v, ebpf.UpdateExist); err != nil {
			t.Fatal(err)
		}
	}
}

const timeout = time.Hour

// sticky is a Service with affinity that is reached in two ways, in both families.
func sticky(endpoints4, endpoints6 []netip.AddrPort) Wanted {
	w := Wanted{Owner: "sticky"}
	for _, a := range []netip.AddrPort{service4, ap("10.96.0.1:443"), service6, ap("[fd00:96::1]:443")} {
		f := state.SocketFrontend{Address: a, Endpoints: endpoints4, Affinity: timeout, Group: "sticky"}
		if a.Addr().Is6() {
			f.Endpoints = endpoints6
		}
		w.Frontends = append(w.Frontends, f)
	}
	return w
}

func TestAClientStaysWithItsEndpoint(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	served := func(to netip.AddrPort) string {
		t.Helper()
		r := c.do(order{To: to})
		if r.Errno != 0 || r.Peer != to {
			t.Fatalf("to %s: %s %s, peer %s", to, r.Call, r.Errno, r.Peer)
		}
		return r.Server
	}
	syncAll(t, k, sticky(servers4, servers6))
	for _, test := range []struct {
		to, other netip.AddrPort
		servers   []netip.AddrPort
	}{{service4, ap("10.96.0.1:443"), servers4}, {service6, ap("[fd00:96::1]:443"), servers6}} {
		first := served(test.to)
		stays := func(when string) {
			t.Helper()
			for range 30 {
				if a, b := served(test.to), served(test.other); a != first || b != first {
					t.Fatalf("%s: served by %s and %s, at first by %s", when, a, b, first)
				}
			}
		}
		stays("at once")
		// Each connection begins the time anew: twice most of it is more than all of it.
		for range 2 {
			age(t, k, timeout-time.Minute)
			stays("before the time is over")
		}
		syncAll(t, k, sticky(slices.Concat(servers4, aps("10.244.0.9:1")), slices.Concat(aps("[fd00:0::]:1"), servers6)))
		stays("with one endpoint more")
		if err := k.renew(context.Background()); err != nil {
			t.Fatal(err)
		}
		stays("after the tables were made anew")
		syncAll(t, k, sticky(servers4, servers6))
		left := slices.DeleteFunc(slices.Clone(test.servers), func(s netip.AddrPort) bool { return s.String() == first })
		if test.to.Addr().Is4() {
			syncAll(t, k, sticky(left, servers6))
		} else {
			syncAll(t, k, sticky(servers4, left))
		}
		if second := served(test.to); second == first {
			t.Errorf("served by %s, which is no endpoint any more", second)
		} else if first = second; true {
			stays("after its endpoint went")
		}
		syncAll(t, k, sticky(servers4, servers6))
		stays("after the endpoint is back")
		moved(t, func() bool { age(t, k, timeout); return served(test.to) != first })
	}
}

// moved waits until a client whose time is over gets another endpoint, of four: chance may give it
// the same a few times.
func moved(t *testing.T, once func() bool) {
	t.Helper()
	for range 60 { // (1/4)^60
		if once() {
			return
		}
	}
	t.Error("a client stays with its endpoint after its time")
}

func TestPodsAreClientsOfTheirOwn(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, sticky(servers4, servers6))
	for range 3 {
		ns := newPod(t)
		one, two := newClient(t, p.config.CgroupRoot, ns), newClient(t, p.config.CgroupRoot, ns)
		first := one.do(order{To: service4})
		if second := two.do(order{To: mapped4, Six: true}); first.Errno != 0 || second.Errno != 0 || second.Server != first.Server {
			t.Errorf("two processes of a Pod are served by %q and %q", first.Server, second.Server)
		}
	}
	if n := len(remembered(t, k)); n != 3 {
		t.Errorf("%d clients are remembered, want 3", n)
	}
}

// halves are two sets of endpoints without a common one, so that a reader who mixes them is seen.
func halves(i int) []netip.AddrPort { return servers4[2*(i%2) : 2*(i%2)+2] }

// underLoad connects from several processes while something happens, and wants every connection to
// have been served.
func underLoad(t *testing.T, p place, happen func()) {
	t.Helper()
	ns := newPod(t)
	var stops []func() reply
	for range 3 {
		stops = append(stops, newClient(t, p.config.CgroupRoot, ns).load(service4))
	}
	happen()
	total := 0
	for _, stop := range stops {
		r := stop()
		if r.Errno != 0 {
			t.Errorf("after %d connections: %s: %s", r.Count, r.Call, r.Errno)
		}
		total += r.Count
	}
	if t.Logf("%d connections", total); total < 50 {
		t.Errorf("only %d connections were made meanwhile", total)
	}
}

func TestUpdatesLoseNoConnection(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, want("s", service4, halves(0)...))
	underLoad(t, p, func() {
		for i := range 3000 {
			set(t, k, want("s", service4, halves(i)...), want("other", ap("10.96.7.7:80"), servers4[:i%4]...))
			if i%100 == 0 {
				if err := k.renew(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if s, err := k.Stats(); err != nil || s.Unsure != 0 {
		t.Errorf("%d connections were let through for doubt, %v", s.Unsure, err)
	}
}

func TestTheNextAgentTakesOverUnderLoad(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, want("s", service4, halves(0)...))
	underLoad(t, p, func() {
		for i := range 10 {
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
			k = p.open(t)
			// Until it knows everything, what the last one left goes on.
			if err := k.Set(context.Background(), want("s", service4)); err == nil {
				t.Error("an agent that does not know everything changed something")
			}
			syncAll(t, k, want("s", service4, halves(i)...))
		}
	})
	entries, err := os.ReadDir(p.config.PinDir)
	if err != nil || len(entries) != len(hooks)+len(lasting) {
		t.Errorf("pinned: %v, %v", entries, err)
	}
}

func TestTablesGrowAndHoldTheirContents(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, want("s", service4, servers4...))
	small := k.tables.room
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	total := []netip.AddrPort{service4}
	for i := range 3000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), 80)
		set(t, k, want(fmt.Sprint(i), a, servers4[:1+i%4]...))
		total = append(total, a)
	}
	if k.tables.room == small {
		t.Errorf("still room for %s", small)
	}
	have, err := k.Observe(context.Background())
	if err != nil || len(have) != len(total) {
		t.Fatalf("%d frontends in force, want %d: %v", len(have), len(total), err)
	}
	for _, f := range have {
		if r := c.do(order{To: f.Address}); r.Errno != 0 || !slices.ContainsFunc(f.Endpoints, func(e netip.AddrPort) bool { return e.String() == r.Server }) {
			t.Fatalf("%s: %s %s, served by %q", f, r.Call, r.Errno, r.Server)
		}
	}
}

func TestRemoveSwitchesOffAtOnce(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	if r := c.do(order{To: service4}); r.Errno != 0 {
		t.Fatalf("%s %s", r.Call, r.Errno)
	}
	if found, err := Remove(p.config.PinDir); !found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	for _, to := range []netip.AddrPort{service4, service6} {
		if r := c.do(order{To: to}); r.Errno != unix.ENETUNREACH {
			t.Errorf("to %s: %s %s, served by %q; want no route", to, r.Call, r.Errno, r.Server)
		}
	}
	if found, err := Remove(p.config.PinDir); found || err != nil {
		t.Errorf("the second time found %v, %v", found, err)
	}
	if _, err := Remove("/tmp"); err == nil {
		t.Error("a folder that is on no bpf file system was emptied")
	}
}

func TestCheckRepairs(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	ns := newPod(t)
	works := func(when string) {
		t.Helper()
		if r := newClient(t, p.config.CgroupRoot, ns).do(order{To: service4}); r.Errno != 0 || r.Peer != service4 {
			t.Errorf("%s: %s %s, peer %s", when, r.Call, r.Errno, r.Peer)
		}
	}
	check := func(wrong bool) {
		t.Helper()
		found, err := k.Check(context.Background())
		if (found != nil) != wrong || err != nil {
			t.Errorf("found %v, %v", found, err)
		}
	}
	check(false)
	if err := os.Remove(filepath.Join(p.config.PinDir, "weft_connect4")); err != nil {
		t.Fatal(err)
	}
	check(true)
	works("after a pin was removed")
	if _, err := Remove(p.config.PinDir); err != nil {
		t.Fatal(err)
	}
	check(true)
	works("after the folder was removed")
	connect4 := hooks[slices.IndexFunc(hooks, func(h hook) bool { return h.program == "weft_connect4" })]
	other := newPlace(t).open(t)
	syncAll(t, other)
	if _, err := attach(k.cgroup, connect4, other.tables.Programs[connect4.program], k.pin(connect4.program)); err != nil {
		t.Fatal(err)
	}
	check(true)
	works("after another program took the place")
	check(false)
}

func TestACgroupMadeAgainIsTakenAgain(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	if err := os.Remove(p.config.CgroupRoot); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.config.CgroupRoot, 0o755); err != nil {
		t.Fatal(err)
	}
	if found, err := k.Check(context.Background()); found == nil || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	if r := newClient(t, p.config.CgroupRoot, newPod(t)).do(order{To: service4}); r.Errno != 0 {
		t.Errorf("%s %s", r.Call, r.Errno)
	}
}

func TestALastingTableOfAnotherFormIsMadeAnew(t *testing.T) {
	p := newPlace(t)
	if err := p.open(t).Close(); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(p.config.PinDir, tableAffinity)
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	foreign, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := foreign.Pin(pin); err != nil {
		t.Fatal(err)
	}
	syncAll(t, p.open(t), both()...)
}

func TestALargeSyncAndAChange(t *testing.T) {
	k := newPlace(t).open(t)
	var all []Wanted
	for i := range 20000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)
		all = append(all, want(fmt.Sprint(i), a, servers4...))
	}
	begin := time.Now()
	syncAll(t, k, all...)
	first := time.Since(begin)
	begin = time.Now()
	syncAll(t, k, all...)
	again := time.Since(begin)
	begin = time.Now()
	set(t, k, want("7", ap("10.96.0.7:80"), servers4[:2]...))
	t.Logf("first %s, the same again %s, one change %s", first, again, time.Since(begin))
	if got, err := k.Observe(context.Background()); err != nil || len(got) != len(all) {
		t.Errorf("%d in force, %v", len(got), err)
	}
}
