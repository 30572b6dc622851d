//go:build linux

package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernel notes what it is asked for.
type kernel struct {
	links     []state.FlowLink
	fault     error
	cleared   chan struct{}
	applied   []flow.Wanted
	forgotten []string
	voided    int
}

func (k *kernel) Observe(context.Context) ([]state.FlowLink, error) { return k.links, nil }

func (k *kernel) Apply(_ context.Context, w flow.Wanted) error {
	k.applied = append(k.applied, w)
	return k.fault
}

func (k *kernel) Forget(a state.Attachment) error {
	k.forgotten = append(k.forgotten, a.HostLink)
	return nil
}

func (k *kernel) VoidEchoes() error {
	k.voided++
	return nil
}

func (k *kernel) Clear() error {
	close(k.cleared)
	return nil
}

func (k *kernel) Stats() (flow.Stats, error) { return flow.Stats{Fast: 5}, nil }

// settings are a table of them in memory.
type settings map[string]string

func (s settings) Observe(_ context.Context, paths []string) (o sysctl.Observed, err error) {
	for _, p := range paths {
		o.Settings = append(o.Settings, state.Sysctl{Path: p, Value: s[p]})
	}
	return o, nil
}

func (s settings) Apply(_ context.Context, c sysctl.Change) error {
	if s == nil {
		return errors.New("read-only")
	}
	for _, v := range c.Set {
		s[v.Path] = v.Value
	}
	return nil
}

func newLoop(on bool, answer link.Answer) (*Loop, *kernel, settings) {
	k := &kernel{cleared: make(chan struct{})}
	s := settings{pathEstablished: "7200", pathUDP: "30", pathUDPStream: "120", pathLiberal: "0"}
	return New(Config{
		On: on, Kernel: k, Probe: func() link.Probe { return link.Probe{Answer: answer} }, Sysctls: s, Log: slog.New(slog.DiscardHandler),
		Attachments: func() []state.Attachment {
			return []state.Attachment{{HostLink: "weftp1", ContainerID: "c", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}}
		},
	}), k, s
}

func TestPass(t *testing.T) {
	l, k, s := newLoop(true, link.Yes)
	if err := l.pass(t.Context()); err != nil || len(k.applied) != 0 {
		t.Fatalf("without a link: %v, %v", k.applied, err)
	}
	if r := l.Report(); r.Asked || r.On || !r.Allowed {
		t.Errorf("without a link the report is %+v", r)
	}
	k.links = []state.FlowLink{{Name: "weftp1", Index: 7, MTU: 1440, Place: true}}
	if err := l.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = "[{[7] [10.244.1.2 dev weftp1(7) mtu 1440] {1h0m0s 15s 1m0s 1s}}]"
	if got := fmt.Sprint(k.applied); got != want {
		t.Errorf("applied %s\nwant    %s", got, want)
	}
	if s[pathLiberal] != "1" {
		t.Error("connection tracking was not made liberal")
	}
	if r := l.Report(); !r.On || !r.Asked || r.Links != 1 || r.Fast != 5 || r.Err != nil {
		t.Errorf("report %+v", r)
	}
	k.fault = errors.New("no room")
	l.note(t.Context(), l.pass(t.Context()))
	if r := l.Report(); !errors.Is(r.Err, k.fault) || !r.On {
		t.Errorf("after a failure the report is %+v", r)
	}
}

// TestNotLiberal: where the setting cannot be written, TCP is left out and it is told.
func TestNotLiberal(t *testing.T) {
	l, k, s := newLoop(true, link.Yes)
	k.links = []state.FlowLink{{Name: "weftp1", Index: 7, MTU: 1440, Place: true}}
	l.cfg.Sysctls = readOnly{s}
	if err := l.pass(t.Context()); err == nil {
		t.Error("it was not told")
	}
	if len(k.applied) != 1 || k.applied[0].Fresh != (state.FlowFresh{UDP: 15 * time.Second, UDPStream: time.Minute, Echo: time.Second}) {
		t.Errorf("applied %v", k.applied)
	}
}

type readOnly struct{ settings }

func (readOnly) Apply(context.Context, sysctl.Change) error { return errors.New("read-only") }

func TestKernelThatCannot(t *testing.T) {
	l, k, s := newLoop(true, link.No)
	k.links = []state.FlowLink{{Name: "weftp1", Index: 7, MTU: 1440, Place: true}}
	if err := l.pass(t.Context()); err != nil || len(k.applied) != 0 || s[pathLiberal] != "0" {
		t.Errorf("applied %v, settings %v, %v", k.applied, s, err)
	}
	if r := l.Report(); r.On || !r.Asked || r.Possible.Answer != link.No {
		t.Errorf("report %+v", r)
	}
}

func TestForget(t *testing.T) {
	for on, want := range map[bool]int{true: 1, false: 0} {
		l, k, _ := newLoop(on, link.Yes)
		if err := l.Forget(state.Attachment{HostLink: "weftp1"}); err != nil || len(k.forgotten) != want {
			t.Errorf("on %t: forgot %v, %v", on, k.forgotten, err)
		}
		if err := l.VoidEchoes(); err != nil || k.voided != want {
			t.Errorf("on %t: voided %d times, %v", on, k.voided, err)
		}
	}
}

// TestSwitchedOff: what an earlier agent left is taken away, and nothing else is done.
func TestSwitchedOff(t *testing.T) {
	l, k, _ := newLoop(false, link.Yes)
	k.links = []state.FlowLink{{Name: "weftp1", Index: 7, MTU: 1440, Place: true}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		l.Run(ctx)
		close(done)
	}()
	poll.Until(t, 30*time.Second, "what was left to be taken away", func() error {
		select {
		case <-k.cleared:
			return nil
		default:
			return errors.New("it is there")
		}
	})
	cancel()
	<-done
	if len(k.applied) != 0 {
		t.Errorf("applied %v", k.applied)
	}
}
