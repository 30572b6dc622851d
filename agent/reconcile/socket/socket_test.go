//go:build linux

package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// balancer is the fake of the kernel package with what the switch has on top, and can fail.
type balancer struct {
	*bpf.Fake
	fault  error
	checks int
}

func (b *balancer) Set(ctx context.Context, wanted ...bpf.Wanted) error {
	return errors.Join(b.Fake.Set(ctx, wanted...), b.fault)
}

func (b *balancer) Check(context.Context) (found, err error) {
	b.checks++
	return b.fault, b.fault
}

func (b *balancer) Report() bpf.Report {
	r := bpf.Report{Asked: true, On: b.fault == nil, Reason: "tried, and it works"}
	if b.fault != nil {
		r.Failing, r.Reason = true, b.fault.Error()
	}
	return r
}

func wanted(name, at string, endpoints ...string) service.Wanted {
	f := state.Frontend{FrontendKey: state.FrontendKey{Addr: netip.MustParseAddr(at), Proto: state.ProtoTCP, Port: 80}}
	f.Inside.Verdict = state.TargetRefuse
	for _, e := range endpoints {
		f.Inside.Verdict = state.TargetForward
		f.Inside.Endpoints = append(f.Inside.Endpoints, netip.MustParseAddrPort(e))
	}
	return service.Wanted{Service: snapshot.ServiceName{Namespace: "ns", Name: name}, Created: time.Unix(1, 0), Frontends: []state.Frontend{f}}
}

func TestServicesReachTheBalancerWhenAllAreKnown(t *testing.T) {
	b := &balancer{Fake: bpf.NewFake()}
	s := New(b, slog.New(slog.DiscardHandler))
	put := func(w ...service.Wanted) {
		t.Helper()
		if err := s.Put(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want string) {
		t.Helper()
		if got, err := b.Observe(t.Context()); err != nil || fmt.Sprint(got) != want {
			t.Errorf("in force: %v, %v\nwant:     %s", got, err, want)
		}
	}
	put(wanted("four", "10.96.0.1", "10.244.1.5:80"), wanted("gone", "10.96.0.9"))
	put(wanted("six", "fd00::1", "[fd01::5]:80"), service.Wanted{Service: snapshot.ServiceName{Namespace: "ns", Name: "gone"}})
	if _, err := b.Observe(t.Context()); !errors.Is(err, bpf.ErrNotSynced) {
		t.Errorf("the balancer was given something before all was known: %v", err)
	}
	if err := s.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds("[10.96.0.1:80 -> 10.244.1.5:80 [fd00::1]:80 -> [fd01::5]:80]")
	put(wanted("four", "10.96.0.1"), service.Wanted{Service: snapshot.ServiceName{Namespace: "ns", Name: "six"}})
	holds("[10.96.0.1:80 -> refused]")
}

func TestAFailureHoldsNobodyUpAndIsTold(t *testing.T) {
	b := &balancer{Fake: bpf.NewFake()}
	var log strings.Builder
	s := New(b, slog.New(slog.NewTextHandler(&log, nil)))
	if err := s.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.fault = errors.New("no room")
	for range 2 {
		if err := s.Put(t.Context(), []service.Wanted{wanted("a", "10.96.0.1")}); err != nil {
			t.Errorf("the service loop is held up: %v", err)
		}
	}
	s.check(t.Context())
	if r, ok := s.Report(); !ok || !r.Failing || r.Reason != "no room" {
		t.Errorf("report %+v", r)
	}
	b.fault = nil
	s.check(t.Context())
	if b.checks != 2 {
		t.Errorf("checked %d times", b.checks)
	}
	if err := s.Put(t.Context(), []service.Wanted{wanted("a", "10.96.0.1")}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(log.String(), "no room"); got != 1 || !strings.Contains(log.String(), "again") {
		t.Errorf("the failure is logged %d times:\n%s", got, log.String())
	}
}
