package wg

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is WireGuard in memory. It obeys the rules of the real one: an allowed IP belongs to one
// peer and moves with the last to claim it, a device has no peer with its own key, an update of a
// peer that is not there does nothing.
type Fake struct {
	mu      sync.Mutex
	devices map[string]*fakeDevice
	applied int
}

type fakeDevice struct {
	device state.Device
	stats  map[state.PublicKey]state.PeerStats
}

// NewFake has the named devices, without keys and peers.
func NewFake(devices ...string) *Fake {
	f := &Fake{devices: map[string]*fakeDevice{}}
	for _, name := range devices {
		f.AddDevice(name)
	}
	return f
}

// AddDevice makes a device, as a new link would.
func (f *Fake) AddDevice(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[name] = &fakeDevice{device: state.Device{Name: name}, stats: map[state.PublicKey]state.PeerStats{}}
}

// RemoveDevice takes a device away, as the deletion of its link would.
func (f *Fake) RemoveDevice(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.devices, name)
}

// SetStats says what a device shall count for a peer; a valid endpoint is where it roamed to.
func (f *Fake) SetStats(device string, stats state.PeerStats) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[device]
	d.stats[stats.PublicKey] = stats
	if i := d.find(stats.PublicKey); i >= 0 && stats.Endpoint.IsValid() {
		d.device.Peers[i].Endpoint = stats.Endpoint
	}
}

// Applied counts the changes that were not empty.
func (f *Fake) Applied() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// Observe reads a device and all its peers, normalized.
func (f *Fake) Observe(ctx context.Context, device string) (state.Device, error) {
	d, _, err := f.Inspect(ctx, device)
	return d, err
}

// Inspect is Observe and what the device counts per peer.
func (f *Fake) Inspect(ctx context.Context, device string) (state.Device, []state.PeerStats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.get(ctx, device)
	if err != nil {
		return state.Device{}, nil, fmt.Errorf("read WireGuard device %s: %w", device, err)
	}
	snapshot := d.device.Normalized()
	stats := make([]state.PeerStats, len(snapshot.Peers))
	for i, p := range snapshot.Peers {
		stats[i] = d.stats[p.PublicKey]
		stats[i].PublicKey, stats[i].Endpoint = p.PublicKey, p.Endpoint
	}
	return snapshot, stats, nil
}

// Ensure makes a device what it is wanted to be, and says what it took.
func (f *Fake) Ensure(ctx context.Context, want state.Device) (Change, error) {
	return Ensure(ctx, f, want)
}

// Apply carries out a change.
func (f *Fake) Apply(ctx context.Context, change Change) error {
	if change.Empty() {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.get(ctx, change.Device)
	if err != nil {
		return fmt.Errorf("configure WireGuard device %s: %w", change.Device, err)
	}
	f.applied++
	if !change.PrivateKey.IsZero() {
		d.device.PrivateKey = change.PrivateKey
		d.remove(change.PrivateKey.Public())
	}
	if change.ListenPort != 0 {
		d.device.ListenPort = change.ListenPort
	}
	for _, p := range change.Set {
		d.set(p)
	}
	for _, key := range change.Remove {
		d.remove(key)
	}
	return nil
}

func (f *Fake) get(ctx context.Context, name string) (*fakeDevice, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d := f.devices[name]
	if d == nil {
		return nil, ErrNoDevice
	}
	return d, nil
}

func (d *fakeDevice) find(key state.PublicKey) int {
	return slices.IndexFunc(d.device.Peers, func(p state.Peer) bool { return p.PublicKey == key })
}

func (d *fakeDevice) remove(key state.PublicKey) {
	d.device.Peers = slices.DeleteFunc(d.device.Peers, func(p state.Peer) bool { return p.PublicKey == key })
	delete(d.stats, key)
}

func (d *fakeDevice) set(c PeerChange) {
	if c.PublicKey == d.device.PrivateKey.Public() {
		return
	}
	i := d.find(c.PublicKey)
	if i < 0 {
		if !c.Create {
			return
		}
		i = len(d.device.Peers)
		d.device.Peers = append(d.device.Peers, state.Peer{PublicKey: c.PublicKey})
	}
	if c.ReplaceAllowedIPs {
		d.device.Peers[i].AllowedIPs = nil
	}
	for _, ip := range c.AllowedIPs {
		d.claim(i, ip.Masked())
	}
	p := &d.device.Peers[i]
	if c.Endpoint.IsValid() {
		p.Endpoint = c.Endpoint
	}
	if c.SetKeepalive {
		p.Keepalive = c.Keepalive
	}
	if c.SetPresharedKey {
		p.PresharedKey = c.PresharedKey
	}
}

// claim gives an allowed IP to one peer and takes it from every other.
func (d *fakeDevice) claim(owner int, ip netip.Prefix) {
	for i := range d.device.Peers {
		p := &d.device.Peers[i]
		p.AllowedIPs = slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(have netip.Prefix) bool { return have == ip })
	}
	d.device.Peers[owner].AllowedIPs = append(d.device.Peers[owner].AllowedIPs, ip)
}
