//go:build linux

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/facts"
)

// TestPrimaryAddresses: NodePorts are on the first address of each family that the Node names, and on no other.
func TestPrimaryAddresses(t *testing.T) {
	parse := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	for name, row := range map[string]struct{ all, want []netip.Addr }{
		"dual stack":    {parse("192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"), parse("192.0.2.1", "2001:db8::1")},
		"IPv6 first":    {parse("2001:db8::1", "203.0.113.1"), parse("2001:db8::1", "203.0.113.1")},
		"one family":    {parse("192.0.2.1", "203.0.113.1"), parse("192.0.2.1")},
		"none yet":      {nil, nil},
		"only external": {parse("203.0.113.1"), parse("203.0.113.1")},
	} {
		if got := primary(row.all); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
}

// TestAddressesInRanges: NodePorts are on what the ranges have of the node's own addresses, and never on the
// loopback or on what is Weftnet's.
func TestAddressesInRanges(t *testing.T) {
	with := func(name string, addrs ...string) facts.Link {
		l := facts.Link{Name: name, Loopback: name == "lo"}
		for _, a := range addrs {
			l.Addresses = append(l.Addresses, facts.Address{Addr: netip.MustParseAddr(a)})
		}
		return l
	}
	links := []facts.Link{
		with("lo", "127.0.0.1", "192.0.2.99"), with("eth0", "192.0.2.1", "198.51.100.1", "2001:db8::1"),
		with("eth1", "192.0.2.1", "192.0.2.2"), with("weft0", "192.0.2.3"), with("weftp1", "192.0.2.4"),
	}
	for name, row := range map[string]struct{ ranges, want []string }{
		"one of them": {[]string{"192.0.2.0/24"}, []string{"192.0.2.1", "192.0.2.2"}},
		"two":         {[]string{"198.51.100.0/24", "2001:db8::/32"}, []string{"198.51.100.1", "2001:db8::1"}},
		"all":         {[]string{"0.0.0.0/0", "::/0"}, []string{"192.0.2.1", "198.51.100.1", "2001:db8::1", "192.0.2.2"}},
		"none":        {[]string{"203.0.113.0/24"}, nil},
	} {
		var ranges []netip.Prefix
		for _, r := range row.ranges {
			ranges = append(ranges, netip.MustParsePrefix(r))
		}
		var got []string
		for _, a := range addressesIn(links, ranges) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
}
