package underlay

import (
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/testbed/layout"
)

func TestSysctlFile(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":               "/proc/sys/net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/100.rp_filter":  "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
		"net.ipv6.conf.tb-br0.disable_ipv6": "/proc/sys/net/ipv6/conf/tb-br0/disable_ipv6",
	} {
		if got := SysctlFile(key); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
}

func TestRouterAnswersForEverybodyElse(t *testing.T) {
	node := layout.Node(2)
	self := node.Addrs(layout.Dual)
	seen := map[string]bool{}
	for _, a := range outside(node, layout.Dual) {
		seen[a.String()] = true
	}
	for _, p := range self {
		if seen[p.Addr().String()] {
			t.Errorf("the router answers on the inside for the node's own %s", p.Addr())
		}
	}
	for _, want := range []string{"fd00:c8::1", "fd00:c8::11", "fd00:c8::13", "10.200.0.1"} {
		if !seen[want] {
			t.Errorf("the router does not answer for %s", want)
		}
	}
}

func TestRouterRules(t *testing.T) {
	if !strings.Contains(routerRules(NAT{Symmetric: true}), "masquerade fully-random\n") {
		t.Error("a symmetric NAT without random ports")
	}
	if strings.Contains(routerRules(NAT{}), "random") {
		t.Error("a plain NAT with random ports")
	}
	if strings.Contains(routerRules(NAT{}), "priority raw") || !strings.Contains(routerRules(NAT{UDPTimeout: time.Second}), `iifname "out" udp length 40 drop`) {
		t.Error("a NAT is kept open from outside, or forgets without being asked to")
	}
}
