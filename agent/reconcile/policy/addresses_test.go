//go:build linux

package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
)

// links is a node whose addresses can be told, refused and counted.
type links struct {
	mu     sync.Mutex
	addrs  []netip.Addr
	err    error
	lists  int
	events chan struct{}
}

func (l *links) List(context.Context) ([]netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lists++
	return slices.Clone(l.addrs), l.err
}

func (l *links) Subscribe(context.Context) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events, nil
}

func (l *links) set(err error, addrs ...netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs, l.err = addrs, err
}

func (l *links) listed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lists
}

// TestAddressesAreHeardOf: passes of the loop list nothing, however many there are; an event does, and so does
// a while without one, also where the events have ended. What is known stays while the kernel does not answer.
func TestAddressesAreHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		own := &links{addrs: []netip.Addr{first}, events: make(chan struct{})}
		a := NewAddresses(t.Context(), own, slog.New(slog.DiscardHandler))
		if !slices.Equal(a.Known(), []netip.Addr{first}) {
			t.Fatalf("at first %v is known", a.Known())
		}
		<-a.Changed()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		synctest.Wait()
		before := own.listed()
		l := newWorld(t).loop
		l.cfg.Node = func() Node { return Node{Self: desired.Self{Name: "node1", IPs: a.Known()}} }
		for range 100 {
			l.moved.Store(true)
			if err := l.turn(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := own.listed() - before; n != 0 {
			t.Errorf("addresses were listed %d times by 100 passes", n)
		}
		own.set(nil, first, second)
		own.events <- struct{}{}
		<-a.Changed()
		if !slices.Equal(a.Known(), []netip.Addr{first, second}) {
			t.Errorf("after an event %v is known", a.Known())
		}
		own.set(errors.New("no memory"))
		own.events <- struct{}{}
		synctest.Wait()
		if !slices.Equal(a.Known(), []netip.Addr{first, second}) {
			t.Errorf("while the kernel does not answer %v is known", a.Known())
		}
		own.set(nil, second)
		old := own.events
		own.mu.Lock()
		own.events = make(chan struct{})
		own.mu.Unlock()
		close(old)
		<-a.Changed() // the ended events are a reason to look
		own.set(nil, first)
		<-a.Changed() // by the clock alone
		own.set(nil, second)
		own.events <- struct{}{} // it hears again
		<-a.Changed()
		cancel()
		<-done
	})
}
