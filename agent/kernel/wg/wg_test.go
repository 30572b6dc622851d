package wg

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/state"
)

func key(n byte) state.PublicKey {
	return state.NewPrivateKey([32]byte{n, 1}).Public()
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func genPeer(t *rapid.T, n byte, pool []netip.Prefix) state.Peer {
	p := state.Peer{PublicKey: key(n), Keepalive: time.Duration(rapid.IntRange(0, 2).Draw(t, "keepalive")) * 25 * time.Second}
	if rapid.Bool().Draw(t, "has endpoint") {
		addr := rapid.SampledFrom([]string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.7"}).Draw(t, "endpoint")
		p.Endpoint = netip.AddrPortFrom(netip.MustParseAddr(addr), rapid.Uint16Range(1, 3).Draw(t, "port"))
	}
	if rapid.Bool().Draw(t, "has psk") {
		p.PresharedKey = state.NewPresharedKey([32]byte{rapid.Byte().Draw(t, "psk"), 1})
	}
	for _, ip := range pool {
		if rapid.IntRange(0, 2).Draw(t, "allowed") == 0 {
			p.AllowedIPs = append(p.AllowedIPs, ip)
		}
	}
	return p
}

func genDevice(t *rapid.T, label string) state.Device {
	d := state.Device{Name: "weft0", ListenPort: rapid.Uint16Range(0, 3).Draw(t, label+" port")}
	if rapid.Bool().Draw(t, label+" has key") {
		d.PrivateKey = state.NewPrivateKey([32]byte{rapid.ByteRange(0, 6).Draw(t, label+" key") * 8, 1})
	}
	pool := prefixes("10.0.0.0/24", "10.0.1.0/24", "10.0.1.7/32", "fd00::/64", "fd00:0:0:1::/64", "fd00::5/128")
	for _, n := range rapid.Permutation([]byte{8, 16, 24, 32, 40}).Draw(t, label+" order")[:rapid.IntRange(0, 5).Draw(t, label+" count")] {
		d.Peers = append(d.Peers, genPeer(t, n, pool))
	}
	return d
}

// settled is what a device is after want was applied to have: what Diff promises in its comment.
func settled(have, want state.Device) state.Device {
	result := wanted(have, want)
	if result.PrivateKey.IsZero() {
		result.PrivateKey = have.PrivateKey
	}
	if result.ListenPort == 0 {
		result.ListenPort = have.ListenPort
	}
	for i := range result.Peers {
		for _, p := range have.Peers {
			if p.PublicKey == result.Peers[i].PublicKey && !result.Peers[i].Endpoint.IsValid() {
				result.Peers[i].Endpoint = p.Endpoint
			}
		}
	}
	return result
}

func TestApplyingTheDiffGivesWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := t.Context()
		fake := NewFake("weft0")
		if _, err := fake.Ensure(ctx, genDevice(t, "have")); err != nil {
			t.Fatal(err)
		}
		have, err := fake.Observe(ctx, "weft0")
		if err != nil {
			t.Fatal(err)
		}
		want := genDevice(t, "want")
		wantText, haveText := want.String(), have.String()
		change := Diff(have, want)
		if want.String() != wantText || have.String() != haveText {
			t.Fatal("Diff changed its arguments")
		}
		if err := fake.Apply(ctx, change); err != nil {
			t.Fatal(err)
		}
		got, err := fake.Observe(ctx, "weft0")
		if err != nil {
			t.Fatal(err)
		}
		if expected := settled(have, want); !got.Equal(expected) {
			t.Fatalf("have\n%s\nwant\n%s\nchange\n%s\ngot\n%s", have, expected, change, got)
		}
		if again := Diff(got, want); !again.Empty() {
			t.Fatalf("a second Diff is not empty:\n%s", again)
		}
		owners := map[netip.Prefix]state.PublicKey{}
		for _, p := range got.Peers {
			for _, ip := range p.AllowedIPs {
				if other, taken := owners[ip]; taken {
					t.Fatalf("%s belongs to %s and %s", ip, other, p.PublicKey)
				}
				owners[ip] = p.PublicKey
			}
		}
	})
}

func TestDiffIsIndependentOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genDevice(t, "have"), genDevice(t, "want")
		first := Diff(have, want).String()
		want.Peers = rapid.Permutation(want.Peers).Draw(t, "shuffled")
		if second := Diff(have, want).String(); first != second {
			t.Fatalf("the order of the peers changed the result:\n%s\n%s", first, second)
		}
	})
}

func TestChangeText(t *testing.T) {
	private := state.NewPrivateKey([32]byte{80, 1})
	have := state.Device{Name: "weft0", PrivateKey: private, ListenPort: 1, Peers: []state.Peer{
		{PublicKey: key(8), AllowedIPs: prefixes("10.0.0.0/24")},
		{PublicKey: key(16), AllowedIPs: prefixes("10.0.1.0/24", "10.0.9.0/24"), Endpoint: netip.MustParseAddrPort("192.0.2.9:9")},
		{PublicKey: key(24)},
	}}
	want := state.Device{Name: "weft0", PrivateKey: state.NewPrivateKey([32]byte{88, 1}), ListenPort: 51820, Peers: []state.Peer{
		{PublicKey: key(8), AllowedIPs: prefixes("10.0.0.0/24", "fd00::/64"), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:51820")},
		{PublicKey: key(16), AllowedIPs: prefixes("10.0.1.0/24"), Keepalive: 25 * time.Second},
		{PublicKey: key(32), AllowedIPs: prefixes("10.0.2.0/24"), PresharedKey: state.NewPresharedKey([32]byte{5})},
	}}
	got := Diff(have, want).String()
	wantLines := map[string]bool{
		fmt.Sprintf("weft0: set private key, public half %s", want.PrivateKey.Public()):                     true,
		"weft0: set listening port 51820":                                                                   true,
		fmt.Sprintf("weft0: change peer %s endpoint [2001:db8::1]:51820 allowed ips + [fd00::/64]", key(8)): true,
		fmt.Sprintf("weft0: change peer %s allowed ips = [10.0.1.0/24] keepalive 25s", key(16)):             true,
		fmt.Sprintf("weft0: add peer %s allowed ips = [10.0.2.0/24] preshared key (redacted)", key(32)):     true,
		fmt.Sprintf("weft0: remove peer %s", key(24)):                                                       true,
	}
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != len(wantLines) {
		t.Errorf("got %d lines, want %d:\n%s", len(lines), len(wantLines), got)
	}
	for _, line := range lines {
		if !wantLines[line] {
			t.Errorf("unexpected line %q", line)
		}
	}
	secret := want.PrivateKey.Reveal()
	if strings.Contains(got+fmt.Sprintf("%+v %#v", Diff(have, want), Diff(have, want)), base64.StdEncoding.EncodeToString(secret[:])) {
		t.Error("the text shows the private key")
	}
}

// The order matters on the wire: see configFrom.
func TestConfigGivesBeforeItTakes(t *testing.T) {
	have := state.Device{Name: "weft0", Peers: []state.Peer{
		{PublicKey: key(8), AllowedIPs: prefixes("10.0.0.0/24", "10.0.1.0/24")}, {PublicKey: key(16)}, {PublicKey: key(24), AllowedIPs: prefixes("10.0.3.0/24")},
	}}
	want := state.Device{Name: "weft0", Peers: []state.Peer{
		{PublicKey: key(8), AllowedIPs: prefixes("10.0.0.0/24")}, {PublicKey: key(16), AllowedIPs: prefixes("10.0.1.0/24")}, {PublicKey: key(32), AllowedIPs: prefixes("10.0.3.0/24")},
	}}
	position := map[state.PublicKey]int{}
	for i, p := range configFrom(Diff(have, want)).Peers {
		position[state.PublicKey(p.PublicKey)] = i
	}
	if position[key(8)] < position[key(16)] || position[key(24)] < position[key(32)] {
		t.Errorf("a peer loses an allowed IP before the other has it: %v", position)
	}
}

func TestConversionFromTheLibrary(t *testing.T) {
	_, v4, _ := net.ParseCIDR("10.0.0.0/24")
	mapped := net.IPNet{IP: net.ParseIP("10.1.0.0"), Mask: net.CIDRMask(16, 32)} // 16 bytes long
	_, v6, _ := net.ParseCIDR("fd00::/64")
	raw := wgtypes.Device{Name: "weft0", ListenPort: 65535, Peers: []wgtypes.Peer{{
		Endpoint:   &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 7},
		AllowedIPs: []net.IPNet{*v6, mapped, *v4},
	}}}
	want := state.Device{Name: "weft0", ListenPort: 65535, Peers: []state.Peer{{
		Endpoint:   netip.MustParseAddrPort("192.0.2.1:7"),
		AllowedIPs: prefixes("10.0.0.0/24", "10.1.0.0/16", "fd00::/64"),
	}}}
	if got := deviceFrom(&raw); !got.Equal(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func BenchmarkDiff500PeersUnchanged(b *testing.B) {
	var d state.Device
	for i := range 500 {
		k := key(byte(i))
		k[31], k[30] = byte(i), byte(i>>8)
		d.Peers = append(d.Peers, state.Peer{PublicKey: k, AllowedIPs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(i >> 8), 2: byte(i)}), 64),
		}})
	}
	for b.Loop() {
		if !Diff(d, d).Empty() {
			b.Fatal("not empty")
		}
	}
}
