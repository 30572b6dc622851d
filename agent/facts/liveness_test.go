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

// TestHearsOnly : of a peer that begins handshakes and answers nothing only the way to it is cut.
func TestHearsOnly(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var l Liveness
	step := func(rx, tx uint64) {
		at = at.Add(time.Second)
		l = l.Next(state.PeerStats{RxBytes: rx, TxBytes: tx}, at)
	}
	for i, s := range []struct {
		rx, tx uint64
		want   bool
	}{
		{500, 900, false},             // the first look
		{532, 1000, false},            // answered
		{532, 1100, false},            // something is owed
		{680, 1192, true},             // its initiation, our response
		{680, 1292, true},             // nothing more
		{828, 1384, true},             // the next initiation
		{828 + 180, 1476, false},      // an initiation, and what confirms our response
		{828 + 180, 1576, false},      // owed again
		{828 + 180 + 32, 1576, false}, // its keepalive
	} {
		if step(s.rx, s.tx); l.HearsOnly() != s.want {
			t.Fatalf("look %d: hears only %t, want %t (%+v)", i, l.HearsOnly(), s.want, l)
		}
	}
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
		{"only its handshakes come", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {s, 648, 1092, s}, {s, 648, 1092, 2 * s}, {2 * s, 796, 1184, 4 * s}}},
		{"its handshake, then what confirms it", []look{{0, 500, 900, -1}, {s, 648, 992, 0}, {s, 680, 992, -1}}},
		{"its handshake, confirmed at once", []look{{0, 500, 900, -1}, {s, 500, 1000, 0}, {s, 680, 1092, -1}}},
		{"it answers our handshake", []look{{0, 500, 900, -1}, {s, 500, 1048, 0}, {s, 592, 1048, -1}}},
		{"an initiation to one who owes nothing", []look{{0, 500, 900, -1}, {s, 648, 900, -1}}},
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
