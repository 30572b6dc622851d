package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Peer is one WireGuard peer of a device.
type Peer struct {
	PublicKey PublicKey
	// Endpoint is where to send; as a wish, the zero value means no change, which keeps the
	// endpoint that a roaming peer was last heard from.
	Endpoint netip.AddrPort
	// AllowedIPs, masked, sorted and unique. No two peers of a device hold the same one.
	AllowedIPs []netip.Prefix
	// Keepalive is the interval of persistent keepalives, in whole seconds; zero is off.
	Keepalive    time.Duration
	PresharedKey PresharedKey
}

// Equal tells whether every field is the same.
func (p Peer) Equal(o Peer) bool {
	return p.PublicKey == o.PublicKey && p.Endpoint == o.Endpoint && p.Keepalive == o.Keepalive &&
		p.PresharedKey.Equal(o.PresharedKey) && slices.Equal(p.AllowedIPs, o.AllowedIPs)
}

// Compare orders peers by public key, which names them.
func (p Peer) Compare(o Peer) int { return p.PublicKey.Compare(o.PublicKey) }

// String is one line in the words of `wg show`.
func (p Peer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "peer %s", p.PublicKey)
	if p.Endpoint.IsValid() {
		fmt.Fprintf(&b, " endpoint %s", p.Endpoint)
	}
	fmt.Fprintf(&b, " allowed ips %s", joinPrefixes(p.AllowedIPs))
	if p.Keepalive > 0 {
		fmt.Fprintf(&b, " keepalive %s", p.Keepalive)
	}
	if !p.PresharedKey.IsZero() {
		fmt.Fprintf(&b, " preshared key %s", p.PresharedKey)
	}
	return b.String()
}

// Normalized returns a copy with AllowedIPs masked, sorted and unique.
func (p Peer) Normalized() Peer {
	p.AllowedIPs = NormalizedPrefixes(p.AllowedIPs)
	return p
}

// Device is a WireGuard device and all its peers.
type Device struct {
	Name string
	// PrivateKey; as a wish, the zero value means no change.
	PrivateKey PrivateKey
	// ListenPort; as a wish, zero means no change.
	ListenPort uint16
	// Peers, sorted and unique by public key.
	Peers []Peer
}

// Equal tells whether every field and every peer is the same.
func (d Device) Equal(o Device) bool {
	return d.Name == o.Name && d.ListenPort == o.ListenPort && d.PrivateKey.Equal(o.PrivateKey) &&
		slices.EqualFunc(d.Peers, o.Peers, Peer.Equal)
}

// Compare orders devices by name.
func (d Device) Compare(o Device) int { return cmp.Compare(d.Name, o.Name) }

// String is the device and its peers, one line each.
func (d Device) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "interface %s public key %s listening port %d\n", d.Name, d.PrivateKey.Public(), d.ListenPort)
	for _, p := range d.Peers {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	return b.String()
}

// Normalized returns a copy with peers sorted by key and their AllowedIPs normalized. The copy
// shares nothing with the original that either could change.
func (d Device) Normalized() Device {
	peers := make([]Peer, len(d.Peers))
	for i, p := range d.Peers {
		peers[i] = p.Normalized()
	}
	slices.SortStableFunc(peers, Peer.Compare)
	d.Peers = peers
	return d
}

// PeerStats is what a device counts for one peer.
type PeerStats struct {
	PublicKey PublicKey
	// Endpoint is where the peer was last heard from, or the one configured.
	Endpoint netip.AddrPort
	// LastHandshake is zero when there was none.
	LastHandshake time.Time
	// RxBytes and TxBytes count from the peer's creation.
	RxBytes, TxBytes uint64
}

// Equal tells whether every field is the same.
func (s PeerStats) Equal(o PeerStats) bool {
	return s.PublicKey == o.PublicKey && s.Endpoint == o.Endpoint && s.LastHandshake.Equal(o.LastHandshake) &&
		s.RxBytes == o.RxBytes && s.TxBytes == o.TxBytes
}

// Compare orders stats by public key.
func (s PeerStats) Compare(o PeerStats) int { return s.PublicKey.Compare(o.PublicKey) }

// String is one line in the words of `wg show`.
func (s PeerStats) String() string {
	handshake := "none"
	if !s.LastHandshake.IsZero() {
		handshake = s.LastHandshake.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("peer %s endpoint %s latest handshake %s transfer %d B received, %d B sent",
		s.PublicKey, s.Endpoint, handshake, s.RxBytes, s.TxBytes)
}

// NormalizedPrefixes returns a copy that is masked, sorted and unique.
func NormalizedPrefixes(in []netip.Prefix) []netip.Prefix {
	if len(in) == 0 {
		return nil
	}
	out := make([]netip.Prefix, len(in))
	for i, p := range in {
		out[i] = p.Masked()
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func joinPrefixes(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 {
		return "(none)"
	}
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}
