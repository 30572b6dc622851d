// Package wg reads and writes WireGuard devices: their key, listen port and peers. A kernel device
// and one of wireguard-go are the same to it; wgctrl speaks netlink to the first and the UAPI
// socket in /var/run/wireguard to the second. The link itself belongs to agent/kernel/link.
package wg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weftnet/agent/state"
)

// ErrNoDevice says that there is no WireGuard device of that name, or that the process that runs it
// is not there. It heals by itself when the link or the process comes back.
var ErrNoDevice = errors.New("no such WireGuard device")

// Interface is what both Kernel and Fake do.
type Interface interface {
	// Observe reads a device and all its peers, normalized.
	Observe(ctx context.Context, device string) (state.Device, error)
	// Inspect is Observe and what the device counts per peer, from one reading.
	Inspect(ctx context.Context, device string) (state.Device, []state.PeerStats, error)
	// Apply carries out a change that Diff found.
	Apply(ctx context.Context, change Change) error
}

// Ensure makes a device what it is wanted to be, and says what it took.
func Ensure(ctx context.Context, k Interface, want state.Device) (Change, error) {
	have, err := k.Observe(ctx, want.Name)
	if err != nil {
		return Change{}, err
	}
	change := Diff(have, want)
	return change, k.Apply(ctx, change)
}

// Kernel is WireGuard in the network namespace in which New was called.
type Kernel struct {
	client *wgctrl.Client
	// busy holds a token while a call is under way. wgctrl sets no deadline on the UAPI socket, so
	// a wireguard process that hangs must not be able to hang its caller, nor collect goroutines.
	busy chan struct{}
}

// New opens the control sockets in the network namespace of the calling thread.
func New() (*Kernel, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("open the WireGuard control socket: %w", err)
	}
	return &Kernel{client: client, busy: make(chan struct{}, 1)}, nil
}

// Close gives the sockets back.
func (k *Kernel) Close() error { return k.client.Close() }

// Observe reads a device and all its peers, normalized.
func (k *Kernel) Observe(ctx context.Context, device string) (state.Device, error) {
	d, _, err := k.Inspect(ctx, device)
	return d, err
}

// Inspect is Observe and what the device counts per peer, from one reading.
func (k *Kernel) Inspect(ctx context.Context, device string) (state.Device, []state.PeerStats, error) {
	var raw *wgtypes.Device
	err := k.call(ctx, func() (err error) {
		raw, err = k.client.Device(device)
		return err
	})
	if err != nil {
		return state.Device{}, nil, fmt.Errorf("read WireGuard device %s: %w", device, err)
	}
	return deviceFrom(raw), statsFrom(raw), nil
}

// Ensure makes a device what it is wanted to be, and says what it took.
func (k *Kernel) Ensure(ctx context.Context, want state.Device) (Change, error) {
	return Ensure(ctx, k, want)
}

// Apply carries out a change that Diff found. An empty change costs nothing.
func (k *Kernel) Apply(ctx context.Context, change Change) error {
	if change.Empty() {
		return ctx.Err()
	}
	config := configFrom(change)
	if err := k.call(ctx, func() error { return k.client.ConfigureDevice(change.Device, config) }); err != nil {
		return fmt.Errorf("configure WireGuard device %s: %w", change.Device, err)
	}
	return nil
}

// call runs f, one at a time, and gives up waiting for it when the context ends.
func (k *Kernel) call(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("an earlier request is still waiting for the device: %w", ctx.Err())
	}
	done := make(chan error, 1)
	go func() {
		done <- f()
		<-k.busy
	}()
	select {
	case err := <-done:
		return classify(err)
	case <-ctx.Done():
		return fmt.Errorf("wait for the device: %w", ctx.Err())
	}
}

// classify finds the errors that mean "not there". A socket file without a listener is what a
// wireguard process leaves behind when it is killed.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w (%w)", ErrNoDevice, err)
	}
	return err
}

func deviceFrom(raw *wgtypes.Device) state.Device {
	d := state.Device{
		Name:       raw.Name,
		PrivateKey: state.NewPrivateKey(raw.PrivateKey),
		ListenPort: uint16(raw.ListenPort),
		Peers:      make([]state.Peer, len(raw.Peers)),
	}
	for i := range raw.Peers {
		d.Peers[i] = peerFrom(&raw.Peers[i])
	}
	return d.Normalized()
}

func statsFrom(raw *wgtypes.Device) []state.PeerStats {
	stats := make([]state.PeerStats, len(raw.Peers))
	for i := range raw.Peers {
		p := &raw.Peers[i]
		stats[i] = state.PeerStats{
			PublicKey:     state.PublicKey(p.PublicKey),
			Endpoint:      addrPort(p.Endpoint),
			LastHandshake: p.LastHandshakeTime,
			RxBytes:       uint64(max(p.ReceiveBytes, 0)),
			TxBytes:       uint64(max(p.TransmitBytes, 0)),
		}
	}
	slices.SortFunc(stats, state.PeerStats.Compare)
	return stats
}
