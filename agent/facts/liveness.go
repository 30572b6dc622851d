package facts

import (
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

const (
	// keepaliveBytes is a keepalive on WireGuard's counters: the header and the tag around nothing
	// (its paper, section 5.4.6). Nobody answers one.
	keepaliveBytes = 32
	// initiationBytes is a handshake that the peer begins (section 5.4.2). It tells that the peer is there, not
	// that it hears: one whose way from here is cut begins a new handshake every 5 s (REKEY_TIMEOUT). Packets with
	// data have lengths that are multiples of 16, or end at the MTU, so that nothing else adds just so much.
	initiationBytes = 148
	// longestLook bounds what one look adds to Unanswered: when this node itself stood still, its
	// peers had no chance to be heard.
	longestLook = 2 * time.Second
)

// Liveness is what the counters of a peer tell from one look to the next. WireGuard answers whatever
// carries data within 10 s (KEEPALIVE_TIMEOUT, section 6.5), if with a keepalive only, so that one who
// sends and hears nothing has lost the peer, however young the last handshake.
type Liveness struct {
	RxBytes, TxBytes uint64
	// Since is when the first packet went out that is still without an answer; zero when there is none.
	Since time.Time
	// Unanswered is for how long this node has looked since then and heard nothing.
	Unanswered time.Duration
	// Heard is when anything at all came from the peer; zero when nothing did since the first look.
	Heard time.Time
	seen  time.Time
}

// HearsOnly tells that packets of the peer arrive and are no answer: the way from here to it is cut, the way
// back is not.
func (l Liveness) HearsOnly() bool { return !l.Since.IsZero() && l.Heard.After(l.Since) }

// Next is what a further look tells.
func (l Liveness) Next(s state.PeerStats, now time.Time) Liveness {
	next := Liveness{RxBytes: s.RxBytes, TxBytes: s.TxBytes, Heard: l.Heard, seen: now}
	heard := s.RxBytes - l.RxBytes // wraps where the device was made anew
	if !l.seen.IsZero() && heard != 0 {
		next.Heard = now
	}
	switch {
	case l.seen.IsZero() || s.TxBytes < l.TxBytes: // the first look, or made anew
	case heard != 0 && heard != initiationBytes: // an answer
	case !l.Since.IsZero():
		next.Since = l.Since
		next.Unanswered = l.Unanswered + min(max(now.Sub(l.seen), 0), longestLook)
	case s.TxBytes != l.TxBytes && s.TxBytes-l.TxBytes != keepaliveBytes:
		next.Since = now
	}
	return next
}

// livenessOf looks at every peer. What is no peer any more is forgotten.
func livenessOf(before map[state.PublicKey]Liveness, peers map[state.PublicKey]state.PeerStats, now time.Time) map[state.PublicKey]Liveness {
	out := make(map[state.PublicKey]Liveness, len(peers))
	for key, s := range peers {
		out[key] = before[key].Next(s, now)
	}
	return out
}
