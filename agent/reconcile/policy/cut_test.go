//go:build linux

package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
)

// events notes what the cutter does, in order.
type events struct {
	flows        []conntrack.Tracked
	did          []string
	mark, voided error
}

func (e *events) Visit(_ context.Context, _ []netip.Addr, each func([]conntrack.Tracked) error) error {
	for _, f := range e.flows {
		if err := each([]conntrack.Tracked{f}); err != nil {
			return err
		}
	}
	return nil
}

func (e *events) SetMark(_ context.Context, flows []conntrack.Tracked, value, _ uint32) (int, error) {
	if len(flows) > 0 {
		e.did = append(e.did, fmt.Sprintf("mark %#x", value))
	}
	return len(flows), e.mark
}

func (e *events) VoidEchoes() error {
	e.did = append(e.did, "void")
	return e.voided
}

// TestEchoesFollowTheMarks: an echo that is not allowed any more may be on its way through the rules, or unknown to
// connection tracking: what lets it past the rules ends after each mark, and after all.
func TestEchoesFollowTheMarks(t *testing.T) {
	pod := webPod("web-1", "10.244.1.2")
	to := func(dst string) conntrack.Tracked {
		src, at := netip.AddrPortFrom(netip.MustParseAddr("10.244.1.9"), 0), netip.AddrPortFrom(netip.MustParseAddr(dst), 0)
		return conntrack.Tracked{Flow: conntrack.Flow{
			Original: conntrack.Tuple{Src: src, Dst: at, Protocol: 1}, Reply: conntrack.Tuple{Src: at, Dst: src, Protocol: 1},
		}}
	}
	refused := errors.New("refused")
	for _, row := range []struct {
		what   string
		events events
		mute   bool
		did    string
		err    error
	}{
		{"no flow", events{}, false, "[void]", nil},
		{"an allowed flow", events{flows: []conntrack.Tracked{to("10.244.1.3")}}, false, "[void]", nil},
		{"two flows", events{flows: []conntrack.Tracked{to("10.244.1.2"), to("10.244.1.2")}}, false, "[mark 0x10000 void mark 0x10000 void void]", nil},
		{"marks refused", events{flows: []conntrack.Tracked{to("10.244.1.2")}, mark: refused}, false, "[mark 0x10000 void]", refused},
		{"to void refused", events{voided: refused}, false, "[void]", refused},
		{"no fast path", events{flows: []conntrack.Tracked{to("10.244.1.2")}}, true, "[mark 0x10000]", nil},
	} {
		cfg := Config{Flows: &row.events, Echoes: &row.events, Log: slog.New(slog.DiscardHandler), Recorder: &counts{}}
		if row.mute {
			cfg.Echoes = nil
		}
		l := New(cfg)
		l.engine.SetPod(pod)
		l.engine.SetNetworkPolicy(denyAll("all"))
		a := attachment(pod)
		l.engine.Attach(desired.Endpoint{Link: a.HostLink, Pod: pod.Key(), UID: a.Pod.UID, IPs: a.Addresses})
		l.engine.Commit()
		err := l.cut.look(t.Context(), desired.Suspects{All: true})
		if got := fmt.Sprint(row.events.did); got != row.did || !errors.Is(err, row.err) {
			t.Errorf("%s: did %s, want %s; %v", row.what, got, row.did, err)
		}
	}
}
