package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestSortSocketFrontendsNeitherChangesNorAliases(t *testing.T) {
	in := []SocketFrontend{
		{Address: ap("[fd00::1]:80"), Endpoints: []netip.AddrPort{ap("[fd01::2]:1"), ap("[fd01::1]:1"), ap("[fd01::2]:1")}},
		{Address: ap("10.96.0.1:80")},
	}
	out := SortSocketFrontends(in)
	if in[0].Address != ap("[fd00::1]:80") || in[0].Endpoints[0] != ap("[fd01::2]:1") {
		t.Errorf("the argument was changed: %v", in)
	}
	if out[0].Address != ap("10.96.0.1:80") || !slices.Equal(out[1].Endpoints, []netip.AddrPort{ap("[fd01::1]:1"), ap("[fd01::2]:1")}) {
		t.Errorf("sorted to %v", out)
	}
}

func TestSocketFrontendEqual(t *testing.T) {
	one := SocketFrontend{Address: ap("10.96.0.1:80"), Endpoints: []netip.AddrPort{ap("10.244.1.5:8080")}, Group: "a"}
	other := one
	if other.Group = "b"; !one.Equal(other) {
		t.Error("the group of a frontend without affinity makes a difference")
	}
	one.Affinity, other.Affinity = time.Minute, time.Minute
	if one.Equal(other) {
		t.Error("the group of a frontend with affinity makes no difference")
	}
	other = one
	if other.Endpoints = nil; one.Equal(other) {
		t.Error("endpoints make no difference")
	}
}

func TestSocketFrontendValidate(t *testing.T) {
	good := SocketFrontend{Address: ap("[fd00::1]:80"), Endpoints: []netip.AddrPort{ap("[fd01::1]:1")}, Affinity: time.Hour}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, f := range map[string]SocketFrontend{
		"want an address, not": {},
		"without a zone":       {Address: ap("[::ffff:10.96.0.1]:80")},
		"same family":          {Address: ap("10.96.0.1:80"), Endpoints: []netip.AddrPort{ap("[fd01::1]:1")}},
		"and a port":           {Address: ap("10.96.0.1:80"), Endpoints: []netip.AddrPort{ap("10.244.1.5:0")}},
		"whole seconds":        {Address: ap("10.96.0.1:80"), Affinity: time.Millisecond},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("validate %s: %v, want %q", f, err, want)
		}
	}
}

func TestSocketFrontendString(t *testing.T) {
	f := SocketFrontend{Address: ap("10.96.0.1:80")}
	if got := f.String(); got != "10.96.0.1:80 -> refused" {
		t.Error(got)
	}
	f.Endpoints, f.Affinity, f.Group = []netip.AddrPort{ap("10.244.1.5:1"), ap("10.244.1.6:1")}, time.Minute, "ns/name:http"
	if got := f.String(); got != "10.96.0.1:80 -> 10.244.1.5:1 10.244.1.6:1 affinity 1m0s of ns/name:http" {
		t.Error(got)
	}
}
