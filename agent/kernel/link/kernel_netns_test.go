//go:build netns

package link_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/test/nstest"
)

type host struct {
	ns *nstest.Namespace
	k  *link.Kernel
	nl *netlink.Handle
}

func newHost(t *testing.T) host {
	h := host{ns: nstest.New(t)}
	var errs [2]error
	h.ns.Do(t, func() {
		h.k, errs[0] = link.New()
		h.nl, errs[1] = netlink.NewHandle(unix.NETLINK_ROUTE)
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { h.k.Close(); h.nl.Close() })
	return h
}

func (h host) bridge(t *testing.T, name string, mtu int, addresses ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	l, err := h.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		h.address(t, l, a)
	}
	return l
}

func (h host) address(t *testing.T, l netlink.Link, text string) {
	t.Helper()
	p := netip.MustParsePrefix(text)
	ip := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	if err := h.nl.AddrAdd(l, &netlink.Addr{IPNet: ip}); err != nil {
		t.Fatal(err)
	}
}

func TestTheProbeLeavesNothing(t *testing.T) {
	h := newHost(t)
	probe := h.k.ProbeWireGuard(t.Context())
	t.Log(probe)
	if probe.Answer == link.Unknown || probe.Reason == "" {
		t.Errorf("as root it could not tell: %s", probe)
	}
	links, err := h.nl.LinkList()
	if err != nil || slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "wireguard" }) {
		t.Errorf("links after the probe: %v, %v", links, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if probe := h.k.ProbeWireGuard(ctx); probe.Answer != link.Unknown {
		t.Errorf("with an ended context: %s", probe)
	}
}

func TestEveryChangeIsReported(t *testing.T) {
	h := newHost(t)
	uplink := h.bridge(t, "eth0", 1500)
	var events <-chan link.Event
	var err error
	h.ns.Do(t, func() { events, err = h.k.Subscribe(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(name, what string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case e := <-events:
				if slices.ContainsFunc(e.Links, func(n string) bool { return len(n) > 4 && n[:5] == "weftp" }) {
					t.Fatalf("an event about a Pod's link: %v", e)
				}
				if slices.Contains(e.Links, name) {
					return
				}
			case <-deadline:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	h.address(t, uplink, "192.0.2.1/24")
	expect("eth0", "IPv4 address added")
	h.address(t, uplink, "2001:db8::1/64")
	expect("eth0", "IPv6 address added")
	if err := h.nl.LinkSetMTU(uplink, 1400); err != nil {
		t.Fatal(err)
	}
	expect("eth0", "MTU changed")
	h.bridge(t, "weftp01234567", 1400, "10.244.0.2/32") // is told of without its name, as expect checks
	for pods := false; !pods; {
		select {
		case e := <-events:
			pods = e.Pods
		case <-time.After(20 * time.Second):
			t.Fatal("no event about a Pod's link")
		}
	}
	mesh := h.bridge(t, "weft0", 1400)
	expect("weft0", "link added")
	if err := h.nl.LinkSetUp(mesh); err != nil {
		t.Fatal(err)
	}
	expect("weft0", "link set up")
	if err := h.nl.LinkDel(mesh); err != nil {
		t.Fatal(err)
	}
	expect("weft0", "link deleted")
}

func TestTheEventsEndWithTheContext(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	var events <-chan link.Event
	var err error
	h.ns.Do(t, func() { events, err = h.k.Subscribe(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-time.After(20 * time.Second):
		t.Error("the channel stays open")
	case _, open := <-events:
		if open {
			t.Error("an event where none was")
		}
	}
}

// TestAFullQueueIsCounted: nobody reads what the mesh device is given.
func TestAFullQueueIsCounted(t *testing.T) {
	h := newHost(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.TxQLen = "weft0", 500
	tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Queues: 1, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE}
	h.ns.Do(t, func() {
		if err := h.nl.LinkAdd(tun); err != nil {
			t.Error(err)
		}
	})
	for _, reader := range tun.Fds {
		defer func() { _ = reader.Close() }()
	}
	h.address(t, tun, "192.0.2.1/24")
	if err := h.nl.LinkSetUp(tun); err != nil {
		t.Fatal(err)
	}
	if got, err := h.k.Dropped(t.Context()); err != nil || got["weft0"] != 0 {
		t.Fatalf("before there was anything to drop: %v, %v", got, err)
	}
	const sent, room = 800, 500
	var c net.Conn
	var err error
	h.ns.Do(t, func() { c, err = net.Dial("udp", "192.0.2.2:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range sent {
		if _, err := c.Write([]byte("packet")); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	got, err := h.k.Dropped(t.Context())
	if err != nil || len(got) != 1 || got["weft0"] < sent-room || got["weft0"] > sent {
		t.Errorf("%d packets, room for %d: %v, %v", sent, room, got, err)
	}
}
