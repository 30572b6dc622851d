package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// aliveFor is how long a handshake proves a path: WireGuard rejects a session after 180 s
	// (REJECT_AFTER_TIME in its paper, section 6.1).
	aliveFor = 180 * time.Second
	// tryFor is how long an endpoint that does not answer is tried before the next: three
	// handshake attempts (REKEY_TIMEOUT is 5 s).
	tryFor = 15 * time.Second
)

// Path is what the plan has to remember of a peer from one time to the next.
type Path struct {
	// Chosen is the endpoint that was asked for last.
	Chosen netip.AddrPort
	// Since is when, and TxBytes what had been sent to the peer by then.
	Since   time.Time
	TxBytes uint64
}

// choices are the endpoints asked for in this plan. A peer without one keeps the endpoint it has.
type choices struct {
	endpoint map[state.PublicKey]netip.AddrPort
	paths    map[state.PublicKey]Path
}

// settleEndpoints reads where the members say that they can be reached. An endpoint inside the mesh
// would send WireGuard's own datagrams into the tunnel.
func settleEndpoints(members []*member, pools []netip.Prefix, faults *problems) {
	inside := slices.Clone(pools)
	var hosts []netip.Prefix
	texts := map[string]netip.Addr{}
	for _, m := range members {
		inside = append(inside, m.podCIDRs...)
		for _, text := range m.Endpoints {
			if a, ok := unicast(text); ok {
				texts[text] = a
				hosts = append(hosts, hostPrefix(a))
			}
		}
	}
	blocks := newClaims(state.NormalizedPrefixes(inside), hosts...)
	for _, m := range members {
		port := m.ListenPort
		if port < 1 || port > 65535 {
			if len(m.Endpoints) > 0 {
				faults.add(KindMeshNode, m.Name, ReasonInvalidPort, "listenPort: %d is no port", m.ListenPort)
			}
			continue
		}
		for _, text := range m.Endpoints {
			a, ok := texts[text]
			if !ok {
				faults.add(KindMeshNode, m.Name, ReasonInvalidEndpoint, "endpoints: %q is no unicast address", text)
				continue
			}
			if block, in := blocks.containing(hostPrefix(a)); in {
				faults.add(KindMeshNode, m.Name, ReasonInvalidEndpoint, "endpoints: %s lies in %s, inside the mesh", a, block)
				continue
			}
			m.endpoints = append(m.endpoints, netip.AddrPortFrom(a, uint16(port)))
		}
		slices.SortStableFunc(m.endpoints, func(a, b netip.AddrPort) int {
			return compareFalseLast(a.Addr().Is4(), b.Addr().Is4())
		})
	}
}

func choosePaths(in Input, others []*member) choices {
	c := choices{
		endpoint: map[state.PublicKey]netip.AddrPort{},
		paths:    map[state.PublicKey]Path{},
	}
	for _, m := range others {
		if !m.isPeer() {
			continue
		}
		stats, known := in.Facts.Peers[m.key]
		current := netip.AddrPort{}
		if known {
			current = unmap(stats.Endpoint)
		}
		want := choose(in, m, stats, current)
		c.endpoint[m.key] = want
		path := in.Paths[m.key]
		if want.IsValid() {
			path = Path{Chosen: want, Since: in.Now, TxBytes: stats.TxBytes}
		} else if current.IsValid() && path.Chosen != current && slices.Contains(m.endpoints, current) {
			path = Path{Chosen: current, Since: in.Now, TxBytes: stats.TxBytes}
		}
		c.paths[m.key] = path
	}
	return c
}

// choose returns the endpoint to ask for, or none to leave the peer's endpoint as it is. IPv4 comes
// first on every node, because two nodes with different preferences would chase each other from
// family to family, and because its header is the smaller.
//
// A published endpoint is given up for another as soon as nothing sent there is answered; one that the
// peer has roamed to, perhaps through a NAT, only with the session, since no other is known to work.
func choose(in Input, m *member, stats state.PeerStats, current netip.AddrPort) netip.AddrPort {
	none := netip.AddrPort{}
	candidates, path := reachable(m.endpoints, in.Facts), in.Paths[m.key]
	if len(candidates) == 0 {
		return none
	}
	at := slices.Index(candidates, current)
	switch {
	case !current.IsValid():
		return candidates[0]
	case at < 0 && current == path.Chosen:
		return candidates[0] // it was our choice, and the peer has moved
	case alive(stats, in.Now) && (at < 0 || !Silent(in.Facts.Liveness[m.key])):
		return none // proven, wherever it has roamed to
	case at < 0:
		return candidates[0]
	case len(candidates) > 1 && path.Chosen == current && unanswered(stats, path, in.Now):
		return candidates[(at+1)%len(candidates)]
	default:
		return none
	}
}

// unanswered tells whether data went out and no handshake came of it. A peer to which nothing was
// sent has not failed.
func unanswered(stats state.PeerStats, path Path, now time.Time) bool {
	since := path.Since
	if stats.LastHandshake.After(since) {
		since = stats.LastHandshake
	}
	return now.Sub(since) > tryFor && stats.TxBytes > path.TxBytes
}

// reachable leaves out the families for which this node has no address, unless that leaves none.
func reachable(list []netip.AddrPort, f facts.Facts) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(list))
	for _, e := range list {
		if slices.ContainsFunc(f.UplinkAddrs, func(a netip.Addr) bool { return state.FamilyOf(a) == state.FamilyOf(e.Addr()) }) {
			out = append(out, e)
		}
	}
	return out
}

// behindNAT tells whether the peer is heard from somewhere else than it says: a NAT stands between.
func behindNAT(in Input, m *member) bool {
	stats := in.Facts.Peers[m.key]
	return alive(stats, in.Now) && stats.Endpoint.IsValid() &&
		!slices.Contains(m.endpoints, unmap(stats.Endpoint)) && stats.Endpoint != in.Paths[m.key].Chosen
}

// keepalive is on where a NAT stands between, on both sides of it. Only the side outside can see the NAT, and
// says so in its status; and a NAT need not keep open what is refreshed from outside only (RFC 4787, REQ-6).
func keepalive(in Input, m *member) time.Duration {
	if !behindNAT(in, m) && !slices.Contains(m.NATPeers, in.Snapshot.Self) {
		return 0
	}
	interval := in.Snapshot.Config.Keepalive.Round(time.Second)
	return min(max(interval, 0), 65535*time.Second) // 16 bits of seconds
}

func unmap(e netip.AddrPort) netip.AddrPort {
	if !e.IsValid() {
		return e
	}
	return netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
}

// families are those that the tunnel runs over: of a peer that is alive the one it is heard from, of
// another the one that it will be tried over first. What is tried meanwhile does not count, or the
// MTU would swing with every node that is down.
func families(in Input, others []*member) []state.Family {
	seen := map[state.Family]bool{}
	for _, m := range others {
		if !m.isPeer() {
			continue
		}
		stats := in.Facts.Peers[m.key]
		if alive(stats, in.Now) && stats.Endpoint.IsValid() {
			seen[state.FamilyOf(stats.Endpoint.Addr())] = true
		} else if first := reachable(m.endpoints, in.Facts); len(first) > 0 {
			seen[state.FamilyOf(first[0].Addr())] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// alive tells whether the path to the peer is proven.
func alive(stats state.PeerStats, now time.Time) bool {
	return !stats.LastHandshake.IsZero() && now.Sub(stats.LastHandshake) < aliveFor
}
