package facts

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func on(list ...string) []Address {
	var out []Address
	for _, s := range list {
		p := netip.MustParsePrefix(s)
		out = append(out, Address{Addr: p.Addr(), Bits: p.Bits()})
	}
	return out
}

func lo(more ...string) Link {
	return Link{Name: "lo", Loopback: true, Up: true, MTU: 65536, Addresses: on(append([]string{"127.0.0.1/8", "::1/128"}, more...)...)}
}

func TestGather(t *testing.T) {
	eth0 := Link{Name: "eth0", MTU: 1500, Up: true, AcceptRA: "1", DefaultRoute: true, Addresses: on("192.0.2.1/24", "2001:db8::1/64", "fe80::1/64")}
	docker := Link{Name: "docker0", MTU: 1500, Up: true, Addresses: on("172.17.0.1/16")}
	weft := Link{Name: "weft0", Alias: "weftnet", MTU: 1440, Up: true, Addresses: on("10.244.0.1/32", "fd00:10:244::1/128")}
	vip := eth0
	vip.Addresses = on("192.0.2.100/32", "192.0.2.1/24", "2001:db8::1/64")
	temporary := eth0
	temporary.Addresses = []Address{
		{Addr: netip.MustParseAddr("2001:db8::abcd"), Bits: 64, Transient: true}, {Addr: netip.MustParseAddr("2001:db8::1"), Bits: 64},
	}
	eth1 := Link{Name: "eth1", MTU: 9000, Up: true, Addresses: on("198.51.100.1/24")}

	rows := []struct {
		name      string
		in        Observation
		uplinks   string
		mtu       int
		endpoints []netip.Addr
	}{
		{"dual stack, as the Node says", Observation{Links: []Link{lo(), eth0, docker, weft}, InternalIPs: addrs("2001:db8::1", "192.0.2.1")},
			"[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1")},
		{"no Node yet: the link with the default route", Observation{Links: []Link{lo(), docker, weft, eth0}},
			"[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1")},
		{"the Node names one family only", Observation{Links: []Link{lo(), eth0}, InternalIPs: addrs("192.0.2.1")},
			"[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1")},
		{"the address changed and the Node lags behind", Observation{Links: []Link{lo(), eth0}, InternalIPs: addrs("192.0.2.77", "2001:db8::77")},
			"[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1", "192.0.2.77", "2001:db8::77")},
		{"the Node's address is on another link than the default route", Observation{Links: []Link{lo(), eth0, eth1}, InternalIPs: addrs("198.51.100.1")},
			"[eth1]", 9000, addrs("198.51.100.1")},
		{"two uplinks: the smaller MTU", Observation{Links: []Link{lo(), eth1, eth0}, InternalIPs: addrs("198.51.100.1", "2001:db8::1")},
			"[eth0 eth1]", 1500, addrs("198.51.100.1", "2001:db8::1")},
		{"behind a NAT: the outside address last", Observation{Links: []Link{lo(), eth0}, InternalIPs: addrs("192.0.2.1"), ExternalIPs: addrs("203.0.113.9")},
			"[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1", "203.0.113.9")},
		{"Node addresses on lo", Observation{Links: []Link{lo("198.51.100.9/32"), eth0}, InternalIPs: addrs("198.51.100.9")},
			"[eth0]", 1500, addrs("198.51.100.9", "2001:db8::1")},
		{"a virtual address is not the node's", Observation{Links: []Link{lo(), vip}}, "[eth0]", 1500, addrs("192.0.2.1", "2001:db8::1")},
		{"a temporary address is not published", Observation{Links: []Link{temporary}}, "[eth0]", 1500, addrs("2001:db8::1")},
		{"nothing", Observation{Links: []Link{lo(), docker}}, "[]", 0, nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			f := Gather(row.in)
			if got := fmt.Sprint(f.Uplinks); got != row.uplinks || f.UplinkMTU != row.mtu {
				t.Errorf("uplinks %s with MTU %d, want %s with %d", got, f.UplinkMTU, row.uplinks, row.mtu)
			}
			if !slices.Equal(f.Endpoints, row.endpoints) {
				t.Errorf("endpoints %v, want %v", f.Endpoints, row.endpoints)
			}
		})
	}
}

func TestRouterAdvertisementsAreKept(t *testing.T) {
	f := Gather(Observation{Links: []Link{
		{Name: "eth0", DefaultRoute: true, AcceptRA: "1"}, {Name: "eth1", DefaultRoute: true, AcceptRA: "2"}, {Name: "eth2", AcceptRA: "1"},
	}})
	if !slices.Equal(f.KeepRA, []string{"eth0"}) {
		t.Errorf("got %v", f.KeepRA)
	}
}

func TestTheDeviceThatHeardThePeerLastCounts(t *testing.T) {
	key := state.PublicKey{1}
	old := state.PeerStats{PublicKey: key, LastHandshake: time.Unix(100, 0)}
	recent := state.PeerStats{PublicKey: key, LastHandshake: time.Unix(200, 0)}
	for _, list := range [][]state.PeerStats{{old, recent}, {recent, old}} {
		if got := Gather(Observation{Peers: list}).Peers[key]; !got.Equal(recent) {
			t.Errorf("got %v", got)
		}
	}
}

func TestEndpointsAreBounded(t *testing.T) {
	var many []netip.Addr
	for i := range 50 {
		many = append(many, netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}))
	}
	if got := Gather(Observation{ExternalIPs: many}).Endpoints; len(got) != maxEndpoints {
		t.Errorf("%d endpoints", len(got))
	}
}
