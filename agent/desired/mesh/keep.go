package mesh

import (
	"net/netip"
	"slices"
	"time"

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
)

// Connected tells whether the peer's last handshake is still good.
func Connected(stats state.PeerStats, now time.Time) bool {
	return !stats.LastHandshake.IsZero() && now.Sub(stats.LastHandshake) < goodFor
}

// Probes are mesh addresses to send something to, one for each peer whose handshake is missing or
// about to grow old: WireGuard itself makes no handshake until it has something to send, so that
// an idle peer could not be told from a dead one.
func Probes(peers []Peer, stats map[state.PublicKey]state.PeerStats, now time.Time) []netip.Addr {
	var out []netip.Addr
	for _, p := range peers {
		if p.Refused != "" || len(p.MeshIPs) == 0 {
			continue
		}
		last := stats[p.Key].LastHandshake
		if last.IsZero() || now.Sub(last) >= probeAfter {
			out = append(out, p.MeshIPs[0])
		}
	}
	return out
}
