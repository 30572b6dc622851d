package harness

import (
	"slices"
	"testing"

	"github.com/weftnet/weftnet/test/testbed/layout"
)

func TestValues(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		want    []string
	}{
		"nothing asked": {Options{}, nil},
		"own arguments": {Options{Family: layout.Dual, Helm: []string{"--set", "a=b"}}, []string{"--set", "a=b"}},
		"kube-proxy":    {Options{Proxy: "kube-proxy"}, []string{"--set", "serviceProxy.enabled=false"}},
		"ipv4":          {Options{Family: layout.IPv4}, []string{"--set-json", `ipPools=[{"name":"default","cidrs":[{"cidr":"10.244.0.0/16"}]}]`}},
		"ipv6 beside kube-proxy": {
			Options{Proxy: "kube-proxy", Family: layout.IPv6},
			[]string{"--set", "serviceProxy.enabled=false", "--set-json", `ipPools=[{"name":"default","cidrs":[{"cidr":"fd00:10:244::/48"}]}]`},
		},
	} {
		if got := test.options.Values(); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
