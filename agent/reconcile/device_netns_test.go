//go:build netns

package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
)

// The node's WireGuard socket is in its own /run, so a child reads and edits the device.
const roleDevice = "device"

// plainDevice is a device without secrets, for the way between the processes.
type plainDevice struct {
	ListenPort uint16
	Peers      []plainPeer
}

type plainPeer struct {
	Key        state.PublicKey
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Keepalive  time.Duration
}

func plain(d state.Device) plainDevice {
	out := plainDevice{ListenPort: d.ListenPort}
	for _, p := range d.Peers {
		out.Peers = append(out.Peers, plainPeer{p.PublicKey, p.Endpoint, p.AllowedIPs, p.Keepalive})
	}
	return out
}

func (p plainDevice) device() state.Device {
	out := state.Device{Name: "weft0", ListenPort: p.ListenPort}
	for _, q := range p.Peers {
		out.Peers = append(out.Peers, state.Peer{PublicKey: q.Key, Endpoint: q.Endpoint, AllowedIPs: q.AllowedIPs, Keepalive: q.Keepalive})
	}
	return out
}

// deviceMain prints the device, after making it what stdin says if it says something.
func deviceMain() error {
	if err := ownRun(); err != nil {
		return err
	}
	k, err := wg.New()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var want plainDevice
	if json.NewDecoder(os.Stdin).Decode(&want) == nil {
		if _, err := k.Ensure(ctx, want.device()); err != nil {
			return err
		}
	}
	have, err := k.Observe(ctx, "weft0")
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(plain(have))
}

func (m *machine) callDevice(want *plainDevice) (state.Device, error) {
	cmd := m.child(roleDevice)
	var in, out, fault bytes.Buffer
	if want != nil {
		m.must(json.NewEncoder(&in).Encode(want))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &fault
	var err error
	m.ns.Do(m.t, func() { cmd.SysProcAttr.Pdeathsig = 0; err = cmd.Run() })
	if err != nil {
		return state.Device{}, fmt.Errorf("%w: %s", err, fault.String())
	}
	var have plainDevice
	err = json.Unmarshal(out.Bytes(), &have)
	return have.device(), err
}

func (m *machine) device() (state.Device, error) { return m.callDevice(nil) }

func (m *machine) editPeers(edit func(*state.Device)) error {
	d, err := m.device()
	if err != nil {
		return err
	}
	edit(&d)
	want := plain(d)
	_, err = m.callDevice(&want)
	return err
}

// runNFT runs the nft program in the namespace of the calling thread.
func runNFT(command string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(command)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", command, err, out)
	}
	return nil
}
