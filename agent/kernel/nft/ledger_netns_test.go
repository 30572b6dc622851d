//go:build netns

package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// proxyFrame has the shape of the service proxy's table, in both families.
func proxyFrame() state.Table {
	t := state.Table{Family: "inet", Name: state.ServiceTableName}
	for _, f := range []struct {
		name string
		ip   state.DataType
	}{{"4", state.TypeIPv4}, {"6", state.TypeIPv6}} {
		end := []state.DataType{f.ip, state.TypePort}
		t.Sets = append(t.Sets,
			state.Set{Name: "services" + f.name, Kind: state.KindMap, Key: []state.DataType{f.ip, state.TypeProto, state.TypePort}, Data: []state.DataType{state.TypeMark}},
			state.Set{Name: "endpoints" + f.name, Kind: state.KindMap, Key: []state.DataType{f.ip, state.TypePort, state.TypeMark}, Data: end},
			state.Set{Name: "hairpin" + f.name, Key: []state.DataType{f.ip, f.ip}})
	}
	return t
}

// proxyService is one Service with a number of endpoints.
func proxyService(i, endpoints int) Wanted {
	w := Wanted{Owner: fmt.Sprintf("namespace/service-%d", i), Sets: map[string][]state.Element{}}
	b := [4]byte{10, byte(96 + i>>16), byte(i >> 8), byte(i)}
	for _, f := range []struct {
		name string
		addr func([4]byte, byte) netip.Addr
	}{
		{"4", func(b [4]byte, n byte) netip.Addr { b[0] += n; return netip.AddrFrom4(b) }},
		{"6", func(b [4]byte, n byte) netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0xfd, 1: n, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
		}},
	} {
		vip, port := state.AddrValue(f.addr(b, 0)), state.PortValue(80)
		w.Sets["services"+f.name] = []state.Element{{Key: state.Concat(vip, state.ProtoValue(6), port), Data: state.MarkValue(uint32(endpoints))}}
		for n := range endpoints {
			ep := state.AddrValue(f.addr(b, byte(n+1)))
			w.Sets["endpoints"+f.name] = append(w.Sets["endpoints"+f.name],
				state.Element{Key: state.Concat(vip, port, state.MarkValue(uint32(n))), Data: state.Concat(ep, state.PortValue(8080))})
			w.Sets["hairpin"+f.name] = append(w.Sets["hairpin"+f.name], state.Element{Key: state.Concat(ep, ep)})
		}
	}
	return w
}

func ledgerIn(tb testing.TB, ns *nstest.Namespace) (*Ledger, *Kernel) {
	tb.Helper()
	var k *Kernel
	var err error
	ns.Do(tb, func() { k, err = NewTable(state.ServiceTableName) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = k.Close() })
	return NewLedger(k), k
}

func proxyServices(n int) []Wanted {
	out := make([]Wanted, n)
	for i := range out {
		out[i] = proxyService(i, 2+i%3)
	}
	return out
}

// TestLedgerOnTheKernel loads a cluster of Services, restarts in the middle, meets a stranger, and in
// the end the kernel has what is wanted and not an element more.
func TestLedgerOnTheKernel(t *testing.T) {
	ns := nstest.New(t)
	l, _ := ledgerIn(t, ns)
	services := proxyServices(3000)
	if _, err := l.Frame(t.Context(), proxyFrame()); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Put(t.Context(), services[:2000]); err != nil || out.Transactions < 2 {
		t.Fatalf("%s, %v", out, err)
	}
	// The agent is killed before it has swept, and started again when 500 Services are gone.
	l, k := ledgerIn(t, ns)
	services = services[500:]
	if _, err := l.Frame(t.Context(), proxyFrame()); err != nil {
		t.Fatal(err)
	}
	before := len(services)
	out, err := l.Put(t.Context(), services)
	if err != nil || out.Deleted != 0 {
		t.Fatalf("%s, %v", out, err)
	}
	if out, err = l.Sweep(t.Context()); err != nil || out.Deleted == 0 || before == 0 {
		t.Fatalf("%s, %v", out, err)
	}
	same := func(what string) {
		t.Helper()
		have, err := k.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wishes := proxyFrame()
		for i, s := range wishes.Sets {
			for _, w := range services {
				wishes.Sets[i].Elements = append(wishes.Sets[i].Elements, w.Sets[s.Name]...)
			}
		}
		if c := Diff(have, wishes); !c.Empty() {
			t.Errorf("%s: there is still\n%s", what, c)
		}
	}
	same("after the restart")
	_, nft := open(t, ns)
	for _, script := range []string{"delete table inet weftnet-service", "flush map inet weftnet-service endpoints6", "add element inet weftnet-service services4 { 192.0.2.1 . tcp . 80 : 3 }"} {
		nft(strings.Fields(script)...)
		if _, err := l.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(script)
	}
	// A change that meets a table which is not as it was written.
	nft("delete", "table", "inet", "weftnet-service")
	services[0] = proxyService(500, 3)
	if out, err := l.Put(t.Context(), services[:1]); err != nil || !out.Observed {
		t.Fatalf("%s, %v", out, err)
	}
	same("after a surprise")
}

// TestLedgerFindsWhatTheKernelRefuses has one owner among many with an element that leads nowhere.
func TestLedgerFindsWhatTheKernelRefuses(t *testing.T) {
	l, k := ledgerIn(t, nstest.New(t))
	frame, wishes := ledgerFrame(2), map[string]Wanted{}
	if _, err := l.Frame(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	var all []Wanted
	for i := range 300 {
		w := wish(fmt.Sprintf("svc-%03d", i), map[string][]state.Element{"marks": {marked(i, 1)}})
		if i == 123 {
			w.Sets["dispatch"] = []state.Element{{Key: state.MarkValue(99), Verdict: state.Goto("nowhere")}}
		} else {
			wishes[w.Owner] = w
		}
		all = append(all, w)
	}
	out, err := l.Put(t.Context(), all)
	if err != nil || len(out.Refused) != 1 || out.Refused[0].Owner != "svc-123" || !strings.Contains(out.Refused[0].Err.Error(), "goto nowhere") {
		t.Fatalf("%s, %v, %v", out, out.Refused, err)
	}
	look := func() {
		t.Helper()
		have, err := k.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c := Diff(have, expected(frame, wishes)); !c.Empty() {
			t.Errorf("there is still\n%s", c)
		}
	}
	look()
	if out, err = l.Put(t.Context(), all[123:124]); err != nil || len(out.Refused) != 1 || out.Observed {
		t.Errorf("tried again: %s, observed %v, %v", out, out.Observed, err)
	}
	delete(all[123].Sets, "dispatch")
	wishes["svc-123"] = all[123]
	if out, err = l.Put(t.Context(), all[123:124]); err != nil || len(out.Refused) != 0 {
		t.Errorf("put right: %s, %v, %v", out, out.Refused, err)
	}
	look()
}

// TestSizes counts what the kernel has.
func TestSizes(t *testing.T) {
	l, k := ledgerIn(t, nstest.New(t))
	if sizes, counted, err := k.Sizes(t.Context()); len(sizes) != 0 || !counted || err != nil {
		t.Errorf("without a table: %v, %v, %v", sizes, counted, err)
	}
	if _, err := l.Frame(t.Context(), proxyFrame()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(t.Context(), proxyServices(100)); err != nil {
		t.Fatal(err)
	}
	sizes, counted, err := k.Sizes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !counted {
		t.Skip("this kernel does not count (Linux 6.16 does)")
	}
	for set, want := range l.Elements() {
		if sizes[set] != want {
			t.Errorf("%s has %d elements, want %d", set, sizes[set], want)
		}
	}
}

// BenchmarkLedgerLoad is the cold start, from nothing to the last Service.
func BenchmarkLedgerLoad(b *testing.B) {
	for _, n := range []int{1000, 10000, 40000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			services := proxyServices(n)
			for b.Loop() {
				b.StopTimer()
				l, k := ledgerIn(b, nstest.New(b))
				if _, err := k.Subscribe(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := l.Frame(b.Context(), proxyFrame()); err != nil {
					b.Fatal(err)
				}
				if _, err := l.Put(b.Context(), services); err != nil {
					b.Fatal(err)
				}
				if _, err := l.Sweep(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLedgerChange is one endpoint more or less beside many Services.
func BenchmarkLedgerChange(b *testing.B) {
	for _, n := range []int{10, 1000, 40000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			services := proxyServices(n)
			l, k := ledgerIn(b, nstest.New(b))
			if _, err := k.Subscribe(b.Context()); err != nil {
				b.Fatal(err)
			}
			if _, err := l.Frame(b.Context(), proxyFrame()); err != nil {
				b.Fatal(err)
			}
			if _, err := l.Put(b.Context(), services); err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				i++
				if _, err := l.Put(b.Context(), []Wanted{proxyService(i%n, 2+(i/n+i%n+1)%3)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestOwnChangesAreNotQueued: a bulk of our own changes does not fill the buffer of events, though
// nobody reads, and a stranger's is heard behind it.
func TestOwnChangesAreNotQueued(t *testing.T) {
	ns := nstest.New(t)
	l, k := ledgerIn(t, ns)
	_, nft := open(t, ns)
	if err := k.events.Ignore(k.conn.Port()); err != nil {
		t.Fatal(err)
	}
	events, err := k.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Frame(t.Context(), proxyFrame()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(t.Context(), proxyServices(20_000)); err != nil {
		t.Fatal(err)
	}
	if n := k.strangers.Load(); n != 0 {
		t.Errorf("%d events were taken for strangers' or were lost", n)
	}
	nft("add", "counter", "inet", state.ServiceTableName, "probe")
	waitEvent(t, events)
}

// TestAcquaintedTablesDoNotHearEachOther: what one table of a program writes wakes nobody who watches another, and a
// stranger's change is heard by both.
func TestAcquaintedTablesDoNotHearEachOther(t *testing.T) {
	ns := nstest.New(t)
	l, k := ledgerIn(t, ns)
	other, nft := open(t, ns)
	if err := Acquaint(k, other); err != nil {
		t.Fatal(err)
	}
	var heard atomic.Int64
	events, err := other.events.Subscribe(t.Context(), func(m wire.Message) bool {
		if m.Port == k.conn.Port() {
			heard.Add(1)
		}
		return m.Port != k.conn.Port() && m.Port != other.conn.Port()
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Frame(t.Context(), proxyFrame()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(t.Context(), proxyServices(100)); err != nil {
		t.Fatal(err)
	}
	nft("add", "counter", "inet", state.ServiceTableName, "probe")
	waitEvent(t, events)
	if n := heard.Load(); n != 0 {
		t.Errorf("%d of its messages were heard", n)
	}
}
