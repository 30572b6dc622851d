package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

func TestWhole(t *testing.T) {
	hops := func(v4, v6 int) (out []harness.Hop) {
		for addr, count := range map[string]int{"10.244.0.2": v4, "fd00:10:244::2": v6} {
			for range count {
				out = append(out, harness.Hop{Target: netip.AddrPortFrom(netip.MustParseAddr(addr), 80)})
			}
		}
		return out
	}
	for _, test := range []struct {
		family layout.Family
		v4, v6 int
		want   string // empty: it holds
	}{
		{layout.Dual, 4, 4, ""},
		{layout.IPv4, 4, 0, ""},
		{layout.IPv6, 0, 4, ""},
		{layout.Dual, 4, 0, "0 requests over ipv6"},
		{layout.Dual, 0, 4, "0 requests over ipv4"},
		{layout.IPv4, 4, 4, "in a cluster without it"},
		{layout.IPv6, 4, 4, "in a cluster without it"},
		{layout.IPv6, 0, 3, "3 requests over ipv6"},
		{layout.IPv4, 0, 0, "0 requests over ipv4"},
	} {
		err := (&proof{Nodes: 2, Family: test.family}).whole(podToPod, hops(test.v4, test.v6))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s with %d and %d: got %v, want %q", test.family, test.v4, test.v6, err, test.want)
		}
	}
}
