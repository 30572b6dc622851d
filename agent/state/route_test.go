package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRouteString(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for want, r := range map[string]Route{
		"10.244.2.0/24 dev weft0 proto 87 scope link src 10.244.1.1":                 {Dst: p("10.244.2.9/24"), Dev: "weft0", Src: a("10.244.1.1")},
		"fd00:10:244:2::/64 dev weft0 proto 87 src fd00::1 metric 1024":              {Dst: p("fd00:10:244:2::/64"), Dev: "weft0", Src: a("fd00::1")},
		"unreachable 10.244.0.0/16 proto 87 metric 9999":                             {Dst: p("10.244.0.0/16"), Dev: "lo", Type: Unreachable, Metric: 9999},
		"10.200.0.12/32 dev weft0 table 87 proto 87 scope link":                      {Dst: p("10.200.0.12/32"), Dev: "weft0", Table: TableWeft},
		"192.0.2.0/24 via 10.0.0.1 dev eth0 proto 87 metric 5 mtu 1400 advmss 1360":  {Dst: p("192.0.2.0/24"), Gateway: a("10.0.0.1"), Dev: "eth0", Metric: 5, MTU: 1400, AdvMSS: 1360},
		"2001:db8::/32 via fe80::1 dev eth0 table 300 proto 87 metric 1024 mtu 1280": {Dst: p("2001:db8::/32"), Gateway: a("fe80::1"), Dev: "eth0", Table: 300, MTU: 1280},
		"unreachable fd00:10:244::/48 proto 87 metric 9999":                          {Dst: p("fd00:10:244::/48"), Type: Unreachable, Metric: 9999},
		"10.244.2.0/24 dev weft0 proto 87":                                           {Dst: p("10.244.2.0/24"), Dev: "weft0", Scope: ScopeGlobal},
	} {
		if got := r.String(); got != want {
			t.Errorf("route is %q, want %q", got, want)
		}
	}
}

func TestRouteEqualAndKey(t *testing.T) {
	r := Route{Dst: netip.MustParsePrefix("fd00::/64"), Dev: "weft0"}
	full := Route{Table: TableMain, Dst: netip.MustParsePrefix("fd00::/64"), Dev: "weft0", Metric: 1024, Scope: ScopeLink}
	if !r.Equal(full) || r.Compare(full) != 0 || r.Key() != full.Key() {
		t.Errorf("%v and %v differ", r, full)
	}
	moved := r
	moved.Dev = "weft1"
	if r.Equal(moved) || r.Compare(moved) == 0 || r.Key() != moved.Key() {
		t.Errorf("%v and %v: equal %v, keys %v and %v", r, moved, r.Equal(moved), r.Key(), moved.Key())
	}
}

func TestSortDoesNotChangeItsArgument(t *testing.T) {
	routes := []Route{{Dst: netip.MustParsePrefix("10.2.0.0/16"), Dev: "a"}, {Dst: netip.MustParsePrefix("10.1.0.0/16"), Dev: "a"}, {Dst: netip.MustParsePrefix("10.2.0.0/16"), Dev: "a"}}
	before := slices.Clone(routes)
	if got := SortRoutes(routes); len(got) != 2 || got[0].Dst.String() != "10.1.0.0/16" {
		t.Errorf("sorted: %v", got)
	}
	if !slices.Equal(routes, before) {
		t.Errorf("the argument became %v", routes)
	}
}

func TestRuleString(t *testing.T) {
	p := netip.MustParsePrefix
	for want, r := range map[string]Rule{
		"8700: from 10.244.1.0/24 lookup 87":                {Priority: 8700, From: p("10.244.1.7/24"), Table: TableWeft},
		"8700: from fd00:10:244:1::/64 lookup 87":           {Priority: 8700, From: p("fd00:10:244:1::/64"), Table: TableWeft},
		"8701: from all to 10.0.0.0/8 iif weft0 lookup 254": {Priority: 8701, To: p("10.0.0.0/8"), IIF: "weft0", Table: TableMain},
		"8799: from all lookup 300 # ipv6":                  {Priority: 8799, Family: IPv6, Table: 300},
		"8798: from all lookup 300":                         {Priority: 8798, From: p("0.0.0.0/0"), Table: 300},
	} {
		if got := r.String(); got != want {
			t.Errorf("rule is %q, want %q", got, want)
		}
	}
	any4, zero := Rule{Priority: 1, From: p("0.0.0.0/0")}, Rule{Priority: 1, Family: IPv4}
	if !any4.Equal(zero) || any4.Compare(zero) != 0 {
		t.Errorf("%v and %v differ", any4, zero)
	}
}

func TestSysctlValidate(t *testing.T) {
	if err := (Sysctl{Path: "ipv4/conf/eth0.5/rp_filter", Value: "2"}).Validate(); err != nil {
		t.Error(err)
	}
	for _, s := range []Sysctl{{Value: "1"}, {Path: "/x", Value: "1"}, {Path: "a/../b", Value: "1"}, {Path: "a//b", Value: "1"}, {Path: "a", Value: " "}} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "sysctl") {
			t.Errorf("%+v: error is %v", s, err)
		}
	}
}
