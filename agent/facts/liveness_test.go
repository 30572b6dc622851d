package facts

import (
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// look is one reading of a peer's counters, some time after the one before.
type look struct {
	after  time.Duration
	rx, tx uint64
	// want is Unanswered; -1 when nothing is owed.
	want time.Duration
}

func TestLiveness(t *testing.T) {
	const s = time.Second
	rows := []struct {
		name  string
		looks []look
	}{
		{"idle for long", []look{{0, 500, 900, -1}, {s, 500, 900, -1}, {time.Hour, 500, 900, -1}}},
		{"sends and hears nothing", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {s, 500, 1000, s}, {2 * s, 500, 1300, 3 * s}, {s, 500, 1300, 4 * s}}},
		{"heard again", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {s, 500, 1000, s}, {s, 532, 1000, -1}, {s, 532, 1000, -1}}},
		{"answered within one look", []look{{0, 500, 900, -1}, {s, 600, 1000, -1}, {s, 600, 1000, -1}}},
		{"its own keepalive owes nothing", []look{{0, 500, 900, -1}, {s, 500, 932, -1}, {25 * s, 500, 964, -1}}},
		{"the smallest packet with data does", []look{{0, 500, 900, -1}, {s, 500, 964, 0}}},
		{"the node stood still meanwhile", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {time.Hour, 500, 1000, 2 * s}}},
		{"the clock was set back", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {-time.Hour, 500, 1000, 0}, {s, 500, 1000, s}}},
		{"the device was made anew", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {s, 0, 148, -1}, {s, 0, 296, 0}}},
		{"the peer was made anew, unheard of", []look{{0, 0, 900, -1}, {s, 0, 1000, 0}, {s, 0, 148, -1}}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
			key := state.PublicKey{7}
			var f Facts
			for i, l := range row.looks {
				now = now.Add(l.after)
				stats := state.PeerStats{PublicKey: key, RxBytes: l.rx, TxBytes: l.tx}
				f = Gather(Observation{Peers: []state.PeerStats{stats}, Liveness: f.Liveness, Now: now})
				got := f.Liveness[key].Unanswered
				if f.Liveness[key].Since.IsZero() {
					got = -1
				}
				if got != l.want {
					t.Fatalf("look %d: unanswered for %v, want %v (%+v)", i, got, l.want, f.Liveness[key])
				}
			}
			if f = Gather(Observation{Liveness: f.Liveness, Now: now}); len(f.Liveness) != 0 {
				t.Errorf("a peer that is gone is remembered: %v", f.Liveness)
			}
		})
	}
}
