package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/state"
)

// KeepDevice adds to a wanted device the peers that the kernel has beside it, for use while the
// snapshot proves no absence. What a wanted peer holds is not taken from it.
func KeepDevice(have, want state.Device) state.Device {
	named := map[state.PublicKey]bool{}
	held := map[netip.Prefix]bool{}
	for _, p := range want.Peers {
		named[p.PublicKey] = true
		for _, ip := range p.AllowedIPs {
			held[ip] = true
		}
	}
	out := want
	out.Peers = slices.Clone(want.Peers)
	for _, p := range have.Peers {
		if named[p.PublicKey] {
			continue
		}
		p.AllowedIPs = slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(ip netip.Prefix) bool { return held[ip] })
		p.Endpoint = netip.AddrPort{}
		out.Peers = append(out.Peers, p)
	}
	return out.Normalized()
}

// KeepRoutes does the same for routes: those through mesh devices and the unreachable ones stay.
func KeepRoutes(have, want []state.Route, devices []string) []state.Route {
	named := map[state.RouteKey]bool{}
	for _, r := range want {
		named[r.Key()] = true
	}
	out := slices.Clone(want)
	for _, r := range have {
		if !named[r.Key()] && (r.Type == state.Unreachable || slices.Contains(devices, r.Dev)) {
			out = append(out, r)
		}
	}
	return state.SortRoutes(out)
}

// KeepRules does the same for rules.
func KeepRules(have, want []state.Rule) []state.Rule {
	return state.SortRules(slices.Concat(want, have))
}

const (
	// goodFor is how long a handshake counts as good: with a packet every probeEvery a session is
	// renewed after 120 s by the side that began it, after 180 s by the other, and the renewal may
	// need some attempts of 5 s.
	goodFor = 210 * time.Second
	// probeAfter is the age of a session that WireGuard renews when a packet is sent
	// (REKEY_AFTER_TIME).
	probeAfter = 120 * time.Second
	// suspectAfter is how long a peer may leave everything unanswered before it is asked for a sign of
	// life. A peer that is only listened to, as with a flow of UDP in one direction, gives one by itself
	// every 10 s.
	suspectAfter = 4 * time.Second
	// silentAfter is when it is given up: three probes and WireGuard's own keepalive later.
	silentAfter = 20 * time.Second
)

// Connected tells whether the peer's last handshake is still good, and what is sent to it answered.
func Connected(f facts.Facts, key state.PublicKey, now time.Time) bool {
	last := f.Peers[key].LastHandshake
	return !last.IsZero() && now.Sub(last) < goodFor && !Silent(f.Liveness[key])
}

// Silent tells whether the peer has left unanswered what any peer answers.
func Silent(l facts.Liveness) bool { return l.Unanswered >= silentAfter }

// Probes are mesh addresses to send something to, one for each peer whose handshake is missing or
// about to grow old, or who does not answer: WireGuard itself makes no handshake until it has something
// to send, so that an idle peer could not be told from a dead one. A pair that has nothing to say to each
// other is left in peace.
func Probes(peers []Peer, f facts.Facts, now time.Time) []netip.Addr {
	var out []netip.Addr
	for _, p := range peers {
		if p.Refused != "" || len(p.MeshIPs) == 0 {
			continue
		}
		last := f.Peers[p.Key].LastHandshake
		if last.IsZero() || now.Sub(last) >= probeAfter || f.Liveness[p.Key].Unanswered >= suspectAfter {
			out = append(out, p.MeshIPs[0])
		}
	}
	return out
}
