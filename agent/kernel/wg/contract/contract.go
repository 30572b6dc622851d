// Package contract is the table of what a WireGuard backend must do. One table runs on the fake, on
// wireguard-go and on the WireGuard of a kernel, so that what is true of one is true of all.
package contract

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
)

// Backend is one implementation under test.
type Backend struct {
	wg.Interface
	// Device names a device that has neither key nor peers.
	Device string
}

// Run checks a backend; each row gets a fresh one from open.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	for _, row := range rows() {
		t.Run(row.name, func(t *testing.T) { row.run(t, open(t)) })
	}
	t.Run("a new device is blank", func(t *testing.T) { blank(t, open(t)) })
	t.Run("a device that is not there", func(t *testing.T) { noDevice(t, open(t)) })
	t.Run("a peer that vanished is not created by an update", func(t *testing.T) { vanished(t, open(t)) })
	t.Run("a context that has ended", func(t *testing.T) { cancelled(t, open(t)) })
	t.Run("500 peers", func(t *testing.T) { manyPeers(t, open(t)) })
}

// row is a sequence of wanted states, each with what the device must be afterwards.
type row struct {
	name  string
	steps []step
}

type step struct {
	want state.Device
	// after is what is expected when it is not want itself.
	after *state.Device
}

func (r row) run(t *testing.T, b Backend) {
	for i, s := range r.steps {
		want := s.want
		want.Name = b.Device
		change, err := wg.Ensure(t.Context(), b, want)
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		after := want
		if s.after != nil {
			after = *s.after
			after.Name = b.Device
		}
		expect(t, b, after)
		again, err := wg.Ensure(t.Context(), b, want)
		if err != nil || !again.Empty() {
			t.Errorf("step %d: not idempotent: %v\nfirst\n%s\nsecond\n%s", i, err, change, again)
		}
	}
}

func expect(t *testing.T, b Backend, want state.Device) {
	t.Helper()
	got, err := b.Observe(t.Context(), b.Device)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want.Normalized()) {
		t.Fatalf("got\n%s\nwant\n%s", got, want.Normalized())
	}
}

// Private is the n-th test key; Key is its public half.
func Private(n uint16) state.PrivateKey {
	raw := [state.KeySize]byte{8, 1: 0x5a}
	binary.BigEndian.PutUint16(raw[2:], n)
	return state.NewPrivateKey(raw)
}

// Key is the public half of the n-th test key.
func Key(n uint16) state.PublicKey { return Private(n).Public() }

func device(peers ...state.Peer) state.Device {
	return state.Device{PrivateKey: Private(0), ListenPort: 51899, Peers: peers}
}

func peer(n uint16, allowed ...string) state.Peer {
	p := state.Peer{PublicKey: Key(n)}
	for _, s := range allowed {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(s))
	}
	return p
}

func at(p state.Peer, endpoint string) state.Peer {
	p.Endpoint = netip.MustParseAddrPort(endpoint)
	return p
}

func keepalive(p state.Peer, d time.Duration) state.Peer {
	p.Keepalive = d
	return p
}

func preshared(p state.Peer, n byte) state.Peer {
	p.PresharedKey = state.NewPresharedKey([state.KeySize]byte{n})
	return p
}

func same(devices ...state.Device) []step {
	steps := make([]step, len(devices))
	for i, d := range devices {
		steps[i] = step{want: d}
	}
	return steps
}

func becomes(want, after state.Device) step { return step{want: want, after: &after} }

const (
	v4Endpoint = "192.0.2.1:51820"
	v6Endpoint = "[2001:db8::1]:51820"
)

func rows() []row {
	a, b := peer(1, "10.0.1.0/24", "fd00:0:0:1::/64"), peer(2, "10.0.2.0/24", "fd00:0:0:2::/64")
	unset := state.Device{Peers: []state.Peer{a}}
	return []row{
		{"key, port and peers", same(device(at(a, v4Endpoint), at(b, v6Endpoint)))},
		{"peers come and go", same(device(a), device(a, b), device(b), device(), device(b, a))},
		{"an unset endpoint keeps the one there is, IPv4", []step{
			{want: device(at(a, v4Endpoint))}, becomes(device(a), device(at(a, v4Endpoint)))}},
		{"an unset endpoint keeps the one there is, IPv6", []step{
			{want: device(at(a, v6Endpoint))}, becomes(device(a), device(at(a, v6Endpoint)))}},
		{"an endpoint changes its family", same(device(at(a, v4Endpoint)), device(at(a, v6Endpoint)), device(at(a, v4Endpoint)))},
		{"an unset key and port keep those there are", []step{
			{want: device(b)}, becomes(unset, device(a))}},
		{"allowed IPs grow and shrink", same(device(peer(1, "10.0.1.0/24")), device(a),
			device(peer(1, "10.0.1.0/24", "10.0.1.1/32", "fd00:0:0:1::/64")), device(peer(1, "fd00:0:0:1::/64")), device(peer(1)))},
		{"an allowed IP moves to another peer", same(device(a, b),
			device(peer(1, "10.0.1.0/24"), peer(2, "10.0.2.0/24", "fd00:0:0:1::/64", "fd00:0:0:2::/64")),
			device(peer(1, "10.0.1.0/24", "10.0.2.0/24"), peer(2, "fd00:0:0:1::/64", "fd00:0:0:2::/64")))},
		{"two peers swap their allowed IPs", same(device(a, b),
			device(peer(2, "10.0.1.0/24", "fd00:0:0:1::/64"), peer(1, "10.0.2.0/24", "fd00:0:0:2::/64")))},
		{"a node changes its key and keeps its allowed IPs", same(device(at(a, v4Endpoint), b),
			device(at(peer(3, "10.0.1.0/24", "fd00:0:0:1::/64"), v4Endpoint), b))},
		{"prefixes inside each other", same(device(peer(1, "10.0.0.0/8", "fd00::/8"), peer(2, "10.1.0.0/16", "fd00:1::/32"),
			peer(3, "10.1.1.1/32", "fd00:1::1/128")), device(peer(1, "10.0.0.0/8", "fd00::/8"), peer(3, "10.1.1.1/32", "fd00:1::1/128")))},
		{"the default routes", same(device(peer(1, "0.0.0.0/0", "::/0")), device(peer(2, "0.0.0.0/0", "::/0")))},
		{"host bits and duplicates", []step{becomes(device(peer(1, "10.0.1.9/24", "10.0.1.0/24", "fd00:0:0:1::9/64")), device(a))}},
		{"one allowed IP wished for two peers goes to the first by key", []step{becomes(
			device(first(peer(1, "10.0.1.0/24"), peer(2, "10.0.1.0/24"))...), device(firstOnly("10.0.1.0/24")...))}},
		{"keepalive on, changed and off", same(device(keepalive(a, 25*time.Second)), device(keepalive(a, 10*time.Second)), device(a))},
		{"keepalive in whole seconds", []step{becomes(device(keepalive(a, 1500*time.Millisecond)), device(keepalive(a, time.Second)))}},
		{"preshared key on, changed and off", same(device(preshared(a, 1)), device(preshared(a, 2)), device(a))},
		{"the device's own key is no peer", []step{becomes(device(a, peer(0, "10.0.9.0/24")), device(a))}},
		{"a device that takes a peer's key loses the peer", []step{{want: device(a, b)},
			becomes(state.Device{PrivateKey: Private(1), ListenPort: 51899, Peers: []state.Peer{a, b}},
				state.Device{PrivateKey: Private(1), ListenPort: 51899, Peers: []state.Peer{b}})}},
		{"the key and the port change", same(device(a),
			state.Device{PrivateKey: Private(9), ListenPort: 51898, Peers: []state.Peer{a}})},
	}
}

func first(peers ...state.Peer) []state.Peer { return peers }

// firstOnly gives the allowed IP to whichever of the keys 1 and 2 sorts first.
func firstOnly(allowed string) []state.Peer {
	if Key(1).Compare(Key(2)) < 0 {
		return []state.Peer{peer(1, allowed), peer(2)}
	}
	return []state.Peer{peer(1), peer(2, allowed)}
}

func blank(t *testing.T, b Backend) {
	got, stats, err := b.Inspect(t.Context(), b.Device)
	if err != nil {
		t.Fatal(err)
	}
	if !got.PrivateKey.IsZero() || len(got.Peers) != 0 || len(stats) != 0 {
		t.Errorf("got %s with %d stats", got, len(stats))
	}
}

func noDevice(t *testing.T, b Backend) {
	if _, err := b.Observe(t.Context(), "weftabsent"); !errors.Is(err, wg.ErrNoDevice) {
		t.Errorf("observe: got %v", err)
	}
	want := device(peer(1))
	want.Name = "weftabsent"
	if err := b.Apply(t.Context(), wg.Diff(state.Device{Name: want.Name}, want)); !errors.Is(err, wg.ErrNoDevice) {
		t.Errorf("apply: got %v", err)
	}
}

// vanished plays somebody else who removes a peer between our reading and our writing.
func vanished(t *testing.T, b Backend) {
	a := peer(1, "10.0.1.0/24")
	have, want, none := device(a), device(keepalive(a, 25*time.Second)), device()
	have.Name, want.Name, none.Name = b.Device, b.Device, b.Device
	if _, err := wg.Ensure(t.Context(), b, none); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(t.Context(), wg.Diff(have, want)); err != nil {
		t.Fatal(err)
	}
	expect(t, b, none)
	if _, err := wg.Ensure(t.Context(), b, want); err != nil {
		t.Fatal(err)
	}
	expect(t, b, want)
}

func cancelled(t *testing.T, b Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Observe(ctx, b.Device); !errors.Is(err, context.Canceled) {
		t.Errorf("observe: got %v", err)
	}
	want := device(peer(1))
	want.Name = b.Device
	if err := b.Apply(ctx, wg.Diff(state.Device{Name: b.Device}, want)); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: got %v", err)
	}
}

// manyPeers passes the size at which the library splits a request into several.
func manyPeers(t *testing.T, b Backend) {
	const count = 500
	want := device()
	want.Name = b.Device
	for n := range uint16(count) {
		v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
		v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 6: byte(n >> 8), 7: byte(n)}), 64)
		want.Peers = append(want.Peers, state.Peer{PublicKey: Key(n + 1), AllowedIPs: []netip.Prefix{v4, v6}})
	}
	took := func(what string) {
		start := time.Now()
		if _, err := wg.Ensure(t.Context(), b, want); err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s %d peers took %s", what, count, time.Since(start).Round(10*time.Microsecond))
	}
	took("create")
	took("compare")
	expect(t, b, want)
	want.Peers = want.Peers[1:]
	change, err := wg.Ensure(t.Context(), b, want)
	if err != nil || len(change.Set) != 0 || len(change.Remove) != 1 {
		t.Errorf("to remove one peer took %d sets and %d removals: %v", len(change.Set), len(change.Remove), err)
	}
	expect(t, b, want)
}
