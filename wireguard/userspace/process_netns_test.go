//go:build netns

package userspace_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/wgtest"
	"github.com/weftnet/weftnet/wireguard/request"
)

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

func TestTrafficInBothFamilies(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay IPv6 %t", v6), func(t *testing.T) {
			a, b := pair(t, v6)
			a.echo(t)
			b.echo(t)
			a.reach(t, b, 20*time.Second)
			b.reach(t, a, 20*time.Second)
			if again := a.configure(t); !again.Empty() {
				t.Errorf("not idempotent with traffic:\n%s", again)
			}
		})
	}
}

// A mesh may have nodes of both kinds.
func TestTrafficWithAKernelDevice(t *testing.T) {
	for _, other := range []state.LinkKind{state.LinkTUN, state.LinkWireGuard} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("kernel to %s, underlay IPv6 %t", other, v6), func(t *testing.T) {
				a, b := newNode(t, 1, state.LinkWireGuard, nil), newNode(t, 2, other, nil)
				if probe := a.links.ProbeWireGuard(t.Context()); probe.Answer == link.No {
					t.Skip(probe) // `make test-kernel` runs it on a kernel that has WireGuard
				}
				connect(t, a, b, v6)
				a.echo(t)
				b.echo(t)
				a.reach(t, b, 20*time.Second)
				b.reach(t, a, 20*time.Second)
			})
		}
	}
}

// The agent takes no part in this: nothing calls configure after the crash.
func TestACrashHealsWithoutTheAgent(t *testing.T) {
	a, b := pair(t, false)
	a.echo(t)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	before := b.kernelState(t)
	s := a.stream(t, b)
	wgtest.Eventually(t, 20*time.Second, func() error { return atLeast(s.answered.Load(), 100) })

	b.process.Kill(t)
	if during := b.kernelState(t); during != before {
		t.Errorf("the crash changed\n%s\nto\n%s", before, during)
	}
	lost, answered, start := s.last.Load(), s.answered.Load(), time.Now()
	b.process.Restart(t)
	wgtest.Eventually(t, 20*time.Second, func() error { return atLeast(s.answered.Load(), answered+100) })
	t.Logf("traffic stood still for at most %s after the crash, %s after the restart",
		time.Duration(s.last.Load()-lost).Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	if took := time.Since(start); took > soon {
		t.Errorf("traffic took %s to come back", took)
	}
	if after := b.kernelState(t); after != before {
		t.Errorf("the restart changed\n%s\nto\n%s", before, after)
	}
	b.process.Await(t, b.devices, b.link.Name)
	if drift := b.configure(t); !drift.Empty() {
		t.Errorf("the restored configuration lacks\n%s", drift)
	}
}

// soon is well before a peer that only sends notices by itself that its session is dead: after 15 s
// (KEEPALIVE_TIMEOUT and REKEY_TIMEOUT of WireGuard's paper, section 6.5). The restarted side must not wait for it.
const soon = 8 * time.Second

func TestOneWayTrafficResumesAfterACrash(t *testing.T) {
	a, b := pair(t, false)
	sink := b.listen(t, netip.AddrPortFrom(b.mesh[0], echoPort))
	_ = a.stream(t, b)
	received := func() error {
		if err := sink.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		_, err := sink.Read(make([]byte, 64))
		return err
	}
	wgtest.Eventually(t, 20*time.Second, received)
	b.process.Kill(t)
	for received() == nil { // what is left in the socket
	}
	start := time.Now()
	b.process.Restart(t)
	wgtest.Eventually(t, 20*time.Second, received)
	t.Logf("one-way traffic resumed %s after the restart", time.Since(start).Round(time.Millisecond))
	if took := time.Since(start); took > soon {
		t.Errorf("one-way traffic took %s to come back", took)
	}
}

func TestAStopLeavesTheLinkAndTheConfiguration(t *testing.T) {
	a, b := pair(t, true)
	a.echo(t)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	before := b.kernelState(t)
	b.process.Stop(t)
	if during := b.kernelState(t); during != before {
		t.Errorf("the stop changed\n%s\nto\n%s", before, during)
	}
	if _, err := b.devices.Observe(t.Context(), b.link.Name); !errors.Is(err, wg.ErrNoDevice) {
		t.Errorf("observe without a process: %v", err)
	}
	b.process.Restart(t)
	a.reach(t, b, 20*time.Second)
}

func TestRoamingEndpointIsKeptOnResync(t *testing.T) {
	for family := range 2 {
		a, b := pair(t, family == 1)
		b.echo(t)
		a.reach(t, b, 20*time.Second)
		b.device.Peers[0].Endpoint = netip.AddrPort{}

		old := a.underlay[family]
		moved := map[int]netip.Addr{0: netip.MustParseAddr("192.0.2.77"), 1: netip.MustParseAddr("2001:db8::77")}[family]
		a.address(t, a.nl.AddrDel, old) // first: the kernel deletes the secondary addresses with it
		a.address(t, a.nl.AddrReplace, moved)
		start := time.Now()
		a.reach(t, b, 20*time.Second)
		t.Logf("family %d: reached again %s after the move", family, time.Since(start).Round(time.Millisecond))
		if drift := b.configure(t); !drift.Empty() {
			t.Errorf("the resync changed\n%s", drift)
		}
		got, err := b.devices.Observe(t.Context(), b.link.Name)
		if err != nil || got.Peers[0].Endpoint.Addr() != moved {
			t.Errorf("endpoint %s, want %s: %v", got.Peers[0].Endpoint, moved, err)
		}
		a.reach(t, b, 20*time.Second)

		// A crash after roaming: the saved endpoint is at worst the old one, and the peer is found again.
		b.process.Stop(t)
		b.process.Restart(t)
		a.reach(t, b, 20*time.Second)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	a, b := pair(t, false)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	peer := a.device.Peers[0]
	foreign := state.Peer{PublicKey: state.PublicKey{31: 9}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	thief := state.Peer{PublicKey: state.PublicKey{31: 7}, AllowedIPs: peer.AllowedIPs}
	spoils := map[string]state.Device{
		"peer deleted":        {Name: a.link.Name},
		"allowed IPs changed": {Name: a.link.Name, Peers: []state.Peer{{PublicKey: peer.PublicKey, AllowedIPs: peer.AllowedIPs[:1]}}},
		"allowed IPs stolen":  {Name: a.link.Name, Peers: []state.Peer{peer, thief}},
		"endpoint changed": {Name: a.link.Name, Peers: []state.Peer{{PublicKey: peer.PublicKey, AllowedIPs: peer.AllowedIPs,
			Endpoint: netip.MustParseAddrPort("192.0.2.200:1")}}},
		"peer added":   {Name: a.link.Name, Peers: []state.Peer{peer, foreign}},
		"port changed": {Name: a.link.Name, ListenPort: 1234, Peers: []state.Peer{peer}},
	}
	for name, spoiled := range spoils {
		t.Run(name, func(t *testing.T) {
			if name == "allowed IPs stolen" { // the thief wins whatever the order of the keys
				spoiled.Peers[0].AllowedIPs = nil
			}
			if change, err := a.devices.Ensure(t.Context(), spoiled); err != nil || change.Empty() {
				t.Fatalf("nothing was spoiled: %v", err)
			}
			if repaired := a.configure(t); repaired.Empty() {
				t.Fatal("nothing was repaired")
			}
			a.reach(t, b, 20*time.Second)
		})
	}
}

func TestADeletedLinkComesBack(t *testing.T) {
	a, b := pair(t, false)
	a.echo(t)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	l, err := b.nl.LinkByName(b.link.Name)
	if err != nil {
		t.Fatal(err)
	}
	index := l.Attrs().Index
	start := time.Now()
	if err := b.nl.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	wgtest.Eventually(t, 20*time.Second, func() error {
		l, err := b.nl.LinkByName(b.link.Name)
		if err == nil && (l.Attrs().Index == index || l.Attrs().Alias != state.LinkAlias) {
			return errors.New("the link is not a new one with our alias")
		}
		return err
	})
	b.process.Await(t, b.devices, b.link.Name)
	t.Logf("the device was back after %s", time.Since(start).Round(time.Millisecond))
	if drift := b.configure(t); !drift.Empty() {
		t.Errorf("the restored configuration lacks\n%s", drift)
	}
	b.addRoutes(t)
	a.reach(t, b, 20*time.Second)
}

func TestTheDeviceGoesWithItsRequest(t *testing.T) {
	a, _ := pair(t, false)
	saved := filepath.Join(a.process.Dir, a.link.Name+".conf")
	info, err := os.Stat(saved)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("saved configuration: %v, %v", info, err)
	}
	a.process.Release(t, a.devices, a.link.Name)
	wgtest.Eventually(t, 20*time.Second, func() error {
		_, err := a.nl.LinkByName(a.link.Name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return errors.Join(errors.New("the link is still there"), err)
	})
	wgtest.Eventually(t, 20*time.Second, func() error {
		if _, err := os.Stat(saved); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(errors.New("the saved configuration is still there"), err)
		}
		return nil
	})
}

// A request that cannot be read is no reason to take a tunnel down.
func TestATornRequestKeepsTheDevice(t *testing.T) {
	a, b := pair(t, false)
	a.echo(t)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	s := a.stream(t, b)
	path := filepath.Join(b.process.Dir, b.link.Name+".json")
	if err := os.WriteFile(path, []byte(`{"name":`), 0o600); err != nil {
		t.Fatal(err)
	}
	other := wgtest.DeviceName() // once this one runs, the torn one has been looked at
	b.process.Request(t, b.devices, other)
	now := s.answered.Load()
	wgtest.Eventually(t, 20*time.Second, func() error { return atLeast(s.answered.Load(), now+100) })
	if err := request.Remove(b.process.Dir, other); err != nil {
		t.Error(err)
	}
}

func TestAPortThatIsTakenIsTakenLater(t *testing.T) {
	a, b := pair(t, false)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	a.process.Stop(t)
	squatter := a.listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), listenPort))
	a.process.Restart(t)
	a.process.Await(t, a.devices, a.link.Name)
	_ = squatter.Close()
	wgtest.Eventually(t, 10*time.Second, func() error {
		have, err := a.devices.Observe(t.Context(), a.link.Name)
		if drift := wg.Diff(have, a.device); err == nil && !drift.Empty() {
			return fmt.Errorf("the device lacks\n%s", drift)
		}
		return err
	})
	a.reach(t, b, 20*time.Second)
}

func TestTheLogHasNoSecret(t *testing.T) {
	a, b := pair(t, false)
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	secret := a.device.PrivateKey.Reveal()
	conn, err := net.Dial("unix", "/var/run/wireguard/"+a.link.Name+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	half := fmt.Sprintf("%x", secret[:20])
	for _, line := range []string{"private_key " + half, "private_key=" + half, half} {
		if _, err := fmt.Fprintf(conn, "set=1\n%s\n\n", line); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 64)
		n, err := conn.Read(answer)
		if err != nil || strings.HasPrefix(string(answer[:n]), "errno=0") {
			t.Errorf("%q was answered %q, %v", line[:12], answer[:n], err)
		}
	}
	a.process.Stop(t)
	if strings.Contains(a.process.Log(), half[:12]) {
		t.Error("the log shows a part of the private key")
	}
}

func atLeast(have, want uint64) error {
	if have < want {
		return fmt.Errorf("%d of %d packets came back", have, want)
	}
	return nil
}
