//go:build netns

package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// pair are two acquainted tables of a namespace, with the events of both.
type pair struct {
	ns     *nstest.Namespace
	ledger *Ledger
	tables [2]*Kernel
	events [2]<-chan struct{}
	nft    func(args ...string) string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{ns: nstest.New(t)}
	p.ledger, p.tables[0] = ledgerIn(t, p.ns)
	p.tables[1], p.nft = open(t, p.ns)
	if err := Acquaint(p.tables[:]...); err != nil {
		t.Fatal(err)
	}
	for i, k := range p.tables {
		events, err := k.Subscribe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.events[i] = events
	}
	return p
}

// listeners is how many sockets of the namespace hear netfilter's events.
func (p *pair) listeners(t *testing.T) (n int) {
	t.Helper()
	const netfilter, none = "12", "00000000"
	p.ns.Do(t, func() {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[1] == netfilter && f[3] != none {
				n++
			}
		}
	})
	return n
}

func (p *pair) strangers() [2]uint64 {
	return [2]uint64{p.tables[0].strangers.Load(), p.tables[1].strangers.Load()}
}

// write has both tables written to.
func (p *pair) write(t *testing.T) error {
	t.Helper()
	_, err1 := p.ledger.Frame(t.Context(), proxyFrame())
	_, err2 := p.ledger.Put(t.Context(), proxyServices(2_000))
	_, err3 := p.tables[1].Ensure(t.Context(), state.Table{Family: "inet", Name: state.TableName, Counters: []string{"ours"}})
	return errors.Join(err1, err2, err3)
}

// TestQuietlyHearsNothingOfOurs: nobody listens meanwhile, nobody is told of anything, and all listen again.
func TestQuietlyHearsNothingOfOurs(t *testing.T) {
	p := newPair(t)
	if n := p.listeners(t); n != 2 {
		t.Fatalf("%d sockets hear events, want 2", n)
	}
	err := p.tables[0].Quietly(func() error {
		if n := p.listeners(t); n != 0 {
			t.Errorf("%d sockets hear events meanwhile", n)
		}
		return errors.Join(p.write(t), p.tables[1].Quietly(func() error { return nil })) // a second one changes nothing
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := p.listeners(t); n != 2 {
		t.Errorf("%d sockets hear events afterwards, want 2", n)
	}
	if got := p.strangers(); got != [2]uint64{} {
		t.Errorf("strangers were seen, %v: there was none", got)
	}
	p.nft("add", "counter", "inet", state.ServiceTableName, "probe")
	waitEvent(t, p.events[0])
}

// TestQuietlyMissesNobody: what another program changes meanwhile is told to every table, even where the write failed.
func TestQuietlyMissesNobody(t *testing.T) {
	p := newPair(t)
	failed := errors.New("failed")
	err := p.tables[0].Quietly(func() error {
		if err := p.write(t); err != nil {
			t.Error(err)
		}
		p.nft("add", "table", "inet", "strangers") // of whose it is the count tells nothing
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("the error is %v", err)
	}
	for _, events := range p.events {
		waitEvent(t, events)
	}
	if got := p.strangers(); got != [2]uint64{1, 1} {
		t.Errorf("strangers seen are %v, want one by each", got)
	}
}

// TestQuietlyIsNotDeceived: a transaction of another table of ours that changes nothing must not stand for a stranger's.
func TestQuietlyIsNotDeceived(t *testing.T) {
	p := newPair(t)
	set := state.Set{Name: "of-ours", Key: []state.DataType{state.TypeIPv4}}
	if _, err := p.tables[1].Ensure(t.Context(), state.Table{Family: "inet", Name: state.TableName, Sets: []state.Set{set}}); err != nil {
		t.Fatal(err)
	}
	set.Elements = []state.Element{{Key: state.AddrValue(netip.MustParseAddr("10.0.0.1"))}}
	add := func() error { return p.tables[1].AddElements(t.Context(), []state.Set{set}) }
	quietly := func(f func() error) {
		t.Helper()
		if err := p.tables[0].Quietly(f); err != nil {
			t.Fatal(err)
		}
	}
	quietly(func() error { return errors.Join(add(), add(), add()) })
	if got := p.strangers(); got != [2]uint64{} {
		t.Errorf("strangers seen are %v: there was none", got)
	}
	quietly(func() error {
		p.nft("add", "table", "inet", "strangers")
		return add()
	})
	if got := p.strangers(); got != [2]uint64{1, 1} {
		t.Errorf("strangers seen are %v, want one by each", got)
	}
}

// TestQuietlyWhereNobodyListens: tables that are not watched are left so.
func TestQuietlyWhereNobodyListens(t *testing.T) {
	ns := nstest.New(t)
	l, k := ledgerIn(t, ns)
	if err := k.Quietly(func() error { _, err := l.Frame(t.Context(), proxyFrame()); return err }); err != nil {
		t.Fatal(err)
	}
	if n := (&pair{ns: ns}).listeners(t); n != 0 {
		t.Errorf("%d sockets hear events, and nobody has asked for them", n)
	}
}

// TestOwnChangesDoNotHinderALook: a table is listed in one piece while another of the same program changes without a pause.
func TestOwnChangesDoNotHinderALook(t *testing.T) {
	p := newPair(t)
	if err := p.write(t); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			counters := []string{fmt.Sprint("ours-", i%2)}
			if _, err := p.tables[1].Ensure(t.Context(), state.Table{Family: "inet", Name: state.TableName, Counters: counters}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 5 {
		if _, err := p.tables[0].Observe(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
