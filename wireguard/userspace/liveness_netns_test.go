//go:build netns

package userspace_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/wgtest"
)

// ear follows the counters of a node's only peer as its agent does.
type ear struct {
	*node
	facts.Liveness
	// initiations are how often just one handshake was begun by the peer between two looks.
	initiations int
}

func (e *ear) look(t *testing.T) {
	t.Helper()
	_, stats, err := e.devices.Inspect(t.Context(), e.device.Name)
	if err != nil || len(stats) != 1 {
		t.Fatalf("%d peers: %v", len(stats), err)
	}
	if stats[0].RxBytes-e.RxBytes == 148 {
		e.initiations++
	}
	e.Liveness = e.Next(stats[0], time.Now())
}

// misdirect sends what a node sends to an address of the underlay to a link address that nobody has; or puts it right.
func (n *node) misdirect(t *testing.T, to netip.Addr, wrong bool) {
	t.Helper()
	up, err := n.nl.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	neighbour := &netlink.Neigh{LinkIndex: up.Attrs().Index, IP: to.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	if wrong {
		err = n.nl.NeighSet(neighbour)
	} else {
		err = n.nl.NeighDel(neighbour)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHandshakesOfOneWhoDoesNotHearAreNoAnswer : the way from a to b is cut. What a still gets are the handshakes
// that b begins again and again, since b hears no response; a must count for how long it has had no answer all
// the same, and both must be content again when the way is open.
func TestHandshakesOfOneWhoDoesNotHearAreNoAnswer(t *testing.T) {
	for _, kind := range []state.LinkKind{state.LinkTUN, state.LinkWireGuard} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, underlay IPv6 %t", kind, v6), func(t *testing.T) {
				t.Parallel()
				a, b := newNode(t, 1, kind, nil), newNode(t, 2, state.LinkTUN, nil)
				if probe := a.links.ProbeWireGuard(t.Context()); kind == state.LinkWireGuard && probe.Answer == link.No {
					t.Skip(probe) // `make test-kernel` runs it on a kernel that has WireGuard
				}
				connect(t, a, b, v6)
				unheard(t, a, b, map[bool]int{false: 0, true: 1}[v6])
			})
		}
	}
}

func unheard(t *testing.T, a, b *node, family int) {
	b.echo(t)
	a.reach(t, b, 20*time.Second)
	ears := []*ear{{node: a}, {node: b}}
	listen := func(limit time.Duration, check func() error) {
		wgtest.Eventually(t, limit, func() error {
			for _, e := range ears {
				e.look(t)
			}
			return check()
		})
	}
	b.process.Kill(t)
	a.misdirect(t, b.underlay[family], true)
	b.process.Restart(t) // it has no session any more, and begins a handshake
	b.process.Await(t, b.devices, b.link.Name)
	_, _ = a.stream(t, b), b.stream(t, a)
	const long = 12 * time.Second
	listen(time.Minute, func() error {
		if ears[0].Unanswered < long || ears[1].Unanswered < long || ears[0].initiations < 2 {
			return fmt.Errorf("no answer for %s and %s, %d handshakes seen", ears[0].Unanswered, ears[1].Unanswered, ears[0].initiations)
		}
		return nil
	})
	t.Logf("no answer for %s and %s, while a saw %d handshakes begin", ears[0].Unanswered.Round(time.Second), ears[1].Unanswered.Round(time.Second), ears[0].initiations)
	if !ears[0].HearsOnly() || ears[1].HearsOnly() {
		t.Errorf("a hears only: %t, b hears only: %t; want true and false", ears[0].HearsOnly(), ears[1].HearsOnly())
	}
	a.misdirect(t, b.underlay[family], false)
	listen(time.Minute, func() error {
		if ears[0].Unanswered > 0 || ears[1].Unanswered > 0 {
			return errors.New("the way is open and nothing is answered")
		}
		return nil
	})
}
