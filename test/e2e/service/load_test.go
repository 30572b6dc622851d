//go:build e2e

package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// load makes requests at a steady rate, each over a connection of its own, and keeps what failed, and
// what was done meanwhile.
type load struct {
	mu       sync.Mutex
	made     int
	failures []string
	notes    []string
	stop     context.CancelFunc
	done     chan struct{}
}

// aim is one place that asks one address.
type aim struct {
	from place
	to   netip.AddrPort
}

// startLoad spreads perSecond requests over the aims.
func startLoad(t *testing.T, perSecond int, aims []aim) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		var flying sync.WaitGroup
		defer flying.Wait()
		begin, sent := time.Now(), 0
		for ctx.Err() == nil {
			<-ticker.C
			// A busy machine skips ticks; what is due is caught up with.
			for due := int(time.Since(begin).Seconds() * float64(perSecond)); sent < due; sent++ {
				a := aims[sent%len(aims)]
				flying.Go(func() { l.one(t, a) })
			}
		}
	}()
	t.Cleanup(func() { l.stop(); <-l.done })
	return l
}

func (l *load) one(t *testing.T, a aim) {
	began := time.Now()
	_, err := a.from.ask(t, corev1.ProtocolTCP, a.to, "hostname")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s %s -> %s, after %s: %v", began.Format(clock), a.from.name, a.to, time.Since(began).Round(time.Millisecond), err))
	}
}

// clock of what is told, to sort by and to hold against the logs of the nodes.
const clock = "15:04:05.000"

// note tells what happens now, for whoever looks for the cause of a failure at that moment.
func (l *load) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, time.Now().Format(clock)+" -- "+what)
}

// end stops the load and requires that no request has failed, and that there were about as many as
// wanted.
func (l *load) end(t *testing.T, perSecond int, lasted time.Duration) {
	t.Helper()
	l.stop()
	<-l.done
	t.Logf("%d requests in %s, %d failed", l.made, lasted.Round(time.Second), len(l.failures))
	if want := int(lasted.Seconds() * float64(perSecond) * 0.8); l.made < want {
		t.Errorf("only %d requests were made, want at least %d: the test proves little", l.made, want)
	}
	told := slices.Concat(l.failures[:min(len(l.failures), 20)], l.notes)
	slices.Sort(told)
	if len(l.failures) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(l.failures), l.made, strings.Join(told, "\n"))
	} else if len(told) > 0 {
		t.Logf("meanwhile:\n%s", strings.Join(told, "\n"))
	}
}
