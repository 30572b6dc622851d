//go:build netns

package node

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/test/nstest"
)

func TestLinksOfANamespace(t *testing.T) {
	ns := nstest.New(t)
	var links []facts.Link
	ns.Do(t, func() {
		if err := build(); err != nil {
			t.Error(err)
			return
		}
		k, err := New("/proc/sys/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer k.Close()
		if !k.IPv6() {
			t.Error("the kernel has no IPv6")
		}
		if links, err = k.Links(t.Context()); err != nil {
			t.Error(err)
		}
	})
	f := facts.Gather(facts.Observation{Links: links, IPv6: true})
	if len(f.Uplinks) != 1 || f.Uplinks[0] != "eth0" || f.UplinkMTU != 1400 || len(f.KeepRA) != 1 {
		t.Errorf("facts %+v of %+v", f, links)
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	if len(f.Endpoints) != 2 || f.Endpoints[0] != want[0] || f.Endpoints[1] != want[1] {
		t.Errorf("endpoints %v", f.Endpoints)
	}
	for _, l := range links {
		if l.Name == "weftp12345678" {
			t.Error("a Pod's link is listed")
		}
	}
}

func build() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1400}, PeerName: "weftp12345678"}); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	peer, err := netlink.LinkByName("weftp12345678")
	if err != nil {
		return err
	}
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags |= 0x02 // IFA_F_NODAD
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			return err
		}
	}
	for _, l := range []netlink.Link{eth0, peer} {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	return netlink.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP("192.0.2.254"), LinkIndex: eth0.Attrs().Index})
}
