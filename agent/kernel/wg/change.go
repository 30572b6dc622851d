package wg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// Change is what takes a device from one state to another.
type Change struct {
	Device string
	// PrivateKey and ListenPort are zero when they stay.
	PrivateKey state.PrivateKey
	ListenPort uint16
	// Set lists the peers that are new or differ, sorted by key.
	Set []PeerChange
	// Remove lists the peers that go, sorted.
	Remove []state.PublicKey
}

// PeerChange is what takes one peer from one state to another.
type PeerChange struct {
	PublicKey state.PublicKey
	// Create is true for a peer that the device did not have.
	Create bool
	// Endpoint is invalid when it stays.
	Endpoint netip.AddrPort
	// AllowedIPs are all that the peer shall have when ReplaceAllowedIPs is set, and otherwise what
	// it shall have besides those it has: to replace them leaves a moment without any, which drops
	// packets, so it is done only where one has to go.
	AllowedIPs        []netip.Prefix
	ReplaceAllowedIPs bool
	SetKeepalive      bool
	Keepalive         time.Duration
	SetPresharedKey   bool
	PresharedKey      state.PresharedKey
}

// Empty tells whether there is nothing to do.
func (c Change) Empty() bool {
	return c.PrivateKey.IsZero() && c.ListenPort == 0 && len(c.Set) == 0 && len(c.Remove) == 0
}

// String is one line per thing that changes; it never shows a key that is secret.
func (c Change) String() string {
	var b strings.Builder
	if !c.PrivateKey.IsZero() {
		fmt.Fprintf(&b, "%s: set private key, public half %s\n", c.Device, c.PrivateKey.Public())
	}
	if c.ListenPort != 0 {
		fmt.Fprintf(&b, "%s: set listening port %d\n", c.Device, c.ListenPort)
	}
	for _, p := range c.Set {
		fmt.Fprintf(&b, "%s: %s\n", c.Device, p)
	}
	for _, key := range c.Remove {
		fmt.Fprintf(&b, "%s: remove peer %s\n", c.Device, key)
	}
	return b.String()
}

// String is one line in the words of `wg set`.
func (p PeerChange) String() string {
	var b strings.Builder
	verb := "change"
	if p.Create {
		verb = "add"
	}
	fmt.Fprintf(&b, "%s peer %s", verb, p.PublicKey)
	if p.Endpoint.IsValid() {
		fmt.Fprintf(&b, " endpoint %s", p.Endpoint)
	}
	if p.ReplaceAllowedIPs {
		fmt.Fprintf(&b, " allowed ips = %v", p.AllowedIPs)
	} else if len(p.AllowedIPs) > 0 {
		fmt.Fprintf(&b, " allowed ips + %v", p.AllowedIPs)
	}
	if p.SetKeepalive {
		fmt.Fprintf(&b, " keepalive %s", p.Keepalive)
	}
	if p.SetPresharedKey {
		fmt.Fprintf(&b, " preshared key %s", p.PresharedKey)
	}
	return b.String()
}

// Diff is the change that takes have to want. A peer of want without an endpoint keeps the one it
// has, which is where it was last heard from. A zero private key or listen port stays as it is.
// Should two peers of want hold one allowed IP, the first by key gets it; a peer with the device's
// own key is left out, as WireGuard itself does.
func Diff(have, want state.Device) Change {
	have, want = have.Normalized(), wanted(have, want)
	change := Change{Device: want.Name}
	if !want.PrivateKey.IsZero() && !want.PrivateKey.Equal(have.PrivateKey) {
		change.PrivateKey = want.PrivateKey
	}
	if want.ListenPort != 0 && want.ListenPort != have.ListenPort {
		change.ListenPort = want.ListenPort
	}
	change.diffPeers(have.Peers, want.Peers)
	return change
}

// diffPeers merges two lists sorted by key.
func (c *Change) diffPeers(have, want []state.Peer) {
	for len(have) > 0 || len(want) > 0 {
		switch order := compareHeads(have, want); {
		case order < 0:
			c.Remove = append(c.Remove, have[0].PublicKey)
			have = have[1:]
		case order > 0:
			c.Set = append(c.Set, create(want[0]))
			want = want[1:]
		default:
			if p, changed := diffPeer(have[0], want[0]); changed {
				c.Set = append(c.Set, p)
			}
			have, want = have[1:], want[1:]
		}
	}
}

func compareHeads(have, want []state.Peer) int {
	switch {
	case len(want) == 0:
		return -1
	case len(have) == 0:
		return 1
	}
	return have[0].Compare(want[0])
}

func create(p state.Peer) PeerChange {
	return PeerChange{
		PublicKey: p.PublicKey, Create: true, Endpoint: p.Endpoint,
		AllowedIPs: p.AllowedIPs, ReplaceAllowedIPs: true,
		SetKeepalive: p.Keepalive != 0, Keepalive: p.Keepalive,
		SetPresharedKey: !p.PresharedKey.IsZero(), PresharedKey: p.PresharedKey,
	}
}

func diffPeer(have, want state.Peer) (PeerChange, bool) {
	p := PeerChange{PublicKey: want.PublicKey}
	if want.Endpoint.IsValid() && want.Endpoint != have.Endpoint {
		p.Endpoint = want.Endpoint
	}
	if added, removed := prefixDelta(have.AllowedIPs, want.AllowedIPs); removed {
		p.AllowedIPs, p.ReplaceAllowedIPs = want.AllowedIPs, true
	} else {
		p.AllowedIPs = added
	}
	if want.Keepalive != have.Keepalive {
		p.SetKeepalive, p.Keepalive = true, want.Keepalive
	}
	if !want.PresharedKey.Equal(have.PresharedKey) {
		p.SetPresharedKey, p.PresharedKey = true, want.PresharedKey
	}
	changed := p.Endpoint.IsValid() || p.ReplaceAllowedIPs || len(p.AllowedIPs) > 0 || p.SetKeepalive || p.SetPresharedKey
	return p, changed
}

// prefixDelta compares two sorted lists.
func prefixDelta(have, want []netip.Prefix) (added []netip.Prefix, removed bool) {
	for _, p := range want {
		if _, found := slices.BinarySearchFunc(have, p, netip.Prefix.Compare); !found {
			added = append(added, p)
		}
	}
	return added, len(want)-len(added) < len(have)
}

// wanted is want as WireGuard can hold it.
func wanted(have, want state.Device) state.Device {
	want = want.Normalized()
	own := want.PrivateKey.Public()
	if want.PrivateKey.IsZero() {
		own = have.PrivateKey.Public()
	}
	held := make(map[netip.Prefix]bool)
	peers := want.Peers[:0]
	for _, p := range want.Peers {
		if p.PublicKey == own || len(peers) > 0 && peers[len(peers)-1].PublicKey == p.PublicKey {
			continue
		}
		p.AllowedIPs = slices.DeleteFunc(p.AllowedIPs, func(ip netip.Prefix) bool { return held[ip] })
		for _, ip := range p.AllowedIPs {
			held[ip] = true
		}
		p.Endpoint = netip.AddrPortFrom(p.Endpoint.Addr().Unmap(), p.Endpoint.Port())
		p.Keepalive = p.Keepalive.Truncate(time.Second)
		peers = append(peers, p)
	}
	want.Peers = peers
	return want
}
