package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNormalizedSharesNothing(t *testing.T) {
	low, high := PublicKey{1}, PublicKey{2}
	original := Device{Name: "weft0", Peers: []Peer{
		{PublicKey: high, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("10.0.0.9/24"), netip.MustParsePrefix("10.0.0.1/24")}},
		{PublicKey: low},
	}}
	before := original.String()
	got := original.Normalized()
	want := Device{Name: "weft0", Peers: []Peer{
		{PublicKey: low},
		{PublicKey: high, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")}},
	}}
	if !got.Equal(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got.Peers[1].AllowedIPs[0] = netip.MustParsePrefix("192.0.2.0/24")
	got.Peers[0].Keepalive = time.Hour
	if original.String() != before {
		t.Errorf("the copy shares with the original, which is now\n%s", original)
	}
}

func TestEveryFieldOfAPeerCounts(t *testing.T) {
	base := Peer{
		PublicKey: PublicKey{1}, Endpoint: netip.MustParseAddrPort("192.0.2.1:1"), Keepalive: time.Second,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}, PresharedKey: NewPresharedKey([KeySize]byte{1}),
	}
	for name, change := range map[string]func(*Peer){
		"key":           func(p *Peer) { p.PublicKey = PublicKey{2} },
		"endpoint":      func(p *Peer) { p.Endpoint = netip.MustParseAddrPort("192.0.2.1:2") },
		"keepalive":     func(p *Peer) { p.Keepalive = 0 },
		"allowed IPs":   func(p *Peer) { p.AllowedIPs = nil },
		"preshared key": func(p *Peer) { p.PresharedKey = NewPresharedKey([KeySize]byte{2}) },
	} {
		other := base
		change(&other)
		if base.Equal(other) || !base.Equal(base) {
			t.Errorf("%s does not count", name)
		}
		d, e := Device{Peers: []Peer{base}}, Device{Peers: []Peer{other}}
		if d.Equal(e) {
			t.Errorf("%s does not count in a device", name)
		}
	}
}

func TestEveryFieldOfALinkCounts(t *testing.T) {
	base := Link{Name: "weft0", Kind: LinkTUN, MTU: 1420, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, Up: true, Alias: LinkAlias}
	for name, change := range map[string]func(*Link){
		"name":      func(l *Link) { l.Name = "weft1" },
		"kind":      func(l *Link) { l.Kind = LinkWireGuard },
		"mtu":       func(l *Link) { l.MTU = 1280 },
		"addresses": func(l *Link) { l.Addresses = nil },
		"up":        func(l *Link) { l.Up = false },
		"alias":     func(l *Link) { l.Alias = "" },
	} {
		other := base
		change(&other)
		if base.Equal(other) || !base.Equal(base) || base.String() == other.String() {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestTexts(t *testing.T) {
	key := NewPrivateKey([KeySize]byte{8})
	device := Device{Name: "weft0", PrivateKey: key, ListenPort: 51820, Peers: []Peer{{
		PublicKey: key.Public(), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:51820"), Keepalive: 25 * time.Second,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}, PresharedKey: NewPresharedKey([KeySize]byte{1}),
	}}}
	want := "interface weft0 public key " + key.Public().String() + " listening port 51820\n" +
		"  peer " + key.Public().String() + " endpoint [2001:db8::1]:51820 allowed ips 10.0.0.0/24, fd00::/64 keepalive 25s preshared key (redacted)\n"
	if got := device.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	stats := PeerStats{PublicKey: key.Public(), Endpoint: netip.MustParseAddrPort("192.0.2.1:1"), LastHandshake: time.Unix(0, 1).UTC(), RxBytes: 1, TxBytes: 2}
	if got := stats.String(); !strings.Contains(got, "latest handshake 1970-01-01T00:00:00Z transfer 1 B received, 2 B sent") {
		t.Errorf("got %s", got)
	}
	if !stats.Equal(stats) || stats.Equal(PeerStats{}) {
		t.Error("stats do not compare")
	}
}

func TestOrder(t *testing.T) {
	peers := []Peer{{PublicKey: PublicKey{3}}, {PublicKey: PublicKey{1}}, {PublicKey: PublicKey{2}}}
	slices.SortFunc(peers, Peer.Compare)
	if peers[0].PublicKey != (PublicKey{1}) || peers[2].PublicKey != (PublicKey{3}) {
		t.Errorf("got %v", peers)
	}
	if (Link{Name: "a"}).Compare(Link{Name: "b"}) >= 0 || (Device{Name: "b"}).Compare(Device{Name: "a"}) <= 0 {
		t.Error("links and devices are not ordered by name")
	}
}
