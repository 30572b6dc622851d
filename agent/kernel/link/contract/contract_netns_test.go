//go:build netns

package contract

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

func TestKernelWithTUN(t *testing.T) {
	Run(t, func(t *testing.T) Backend { return Kernel(t, state.LinkTUN) })
}

func TestKernelWithWireGuard(t *testing.T) {
	b := Kernel(t, state.LinkWireGuard)
	if probe := b.Interface.(*link.Kernel).ProbeWireGuard(t.Context()); probe.Answer != link.Yes {
		t.Skip(probe) // `make test-kernel` runs it on a kernel that has WireGuard
	}
	Run(t, func(t *testing.T) Backend { return Kernel(t, state.LinkWireGuard) })
}

// Kernel is the links of a new namespace.
func Kernel(t *testing.T, kind state.LinkKind) Backend {
	ns := nstest.New(t)
	var k *link.Kernel
	var other *netlink.Handle
	ns.Do(t, func() {
		var err error
		if k, err = link.New(); err != nil {
			t.Error(err)
		}
		if other, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(k.Close)
	t.Cleanup(other.Close)
	put := func(t *testing.T, l state.Link) {
		t.Helper()
		ns.Do(t, func() { // a TUN is made with an ioctl, in the namespace of the thread
			attrs := netlink.NewLinkAttrs()
			attrs.Name = l.Name
			var err error
			switch l.Kind {
			case state.LinkTUN:
				err = netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN})
			default:
				err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
			}
			if err != nil {
				t.Errorf("make %s: %v", l, err)
			}
		})
	}
	remove := func(t *testing.T, name string) {
		t.Helper()
		l, err := other.LinkByName(name)
		if err == nil {
			err = other.LinkDel(l)
		}
		if err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	return Backend{Interface: k, Kind: kind, Put: put, Remove: remove}
}
