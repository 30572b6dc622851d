//go:build netns

package nft

import (
	"errors"
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
