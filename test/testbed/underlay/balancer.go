package underlay

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// EnsureBalancer makes the namespace of the load balancer: a router beside the nodes. The machine sends
// to it what is for the addresses that it hands out, as a client outside the nodes' subnet. What comes
// back need not pass it: nothing is translated on the way.
func EnsureBalancer(family layout.Family) error {
	if err := ensureNetNS(layout.Balancer); err != nil {
		return err
	}
	if err := ensurePort(layout.BalancerPort, layout.Balancer, nodeLink, mac(3, 0)); err != nil {
		return err
	}
	err := proc.InNetNS(layout.Balancer, func() error {
		if err := setSysctls(balancerSysctls()); err != nil {
			return err
		}
		if err := configure(nodeLink, layout.BalancerAddrs(family)); err != nil {
			return err
		}
		if err := defaultRoutes(nodeLink, family); err != nil {
			return err
		}
		for _, r := range layout.BalancerRanges(family) {
			route := &netlink.Route{Dst: ipNet(r), Type: unix.RTN_UNREACHABLE}
			if err := netlink.RouteReplace(route); err != nil {
				return fmt.Errorf("refuse what is for no Service in %s: %w", r, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("set up the load balancer's namespace: %w", err)
	}
	return toBalancer(family)
}

// balancerSysctls let it forward, and spread flows by their ports too. It sends out on the link where it
// received, and must not tell the machine to go to the node itself.
func balancerSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.ip_forward":                           "1",
		"net.ipv6.conf.all.forwarding":                  "1",
		"net.ipv4.fib_multipath_hash_policy":            "1",
		"net.ipv6.fib_multipath_hash_policy":            "1",
		"net.ipv4.conf.all.rp_filter":                   "0",
		"net.ipv4.conf.all.send_redirects":              "0",
		"net.ipv4.conf." + nodeLink + ".send_redirects": "0",
	}
}

// toBalancer sets the machine's way to the addresses that the load balancer hands out.
func toBalancer(family layout.Family) error {
	bridge, err := netlink.LinkByName(layout.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", layout.Bridge, err)
	}
	clients := layout.ClientAddrs(family)
	if err := bringUp(bridge, clients); err != nil {
		return err
	}
	gateways := layout.BalancerAddrs(family)
	for i, r := range layout.BalancerRanges(family) {
		if err := netlink.RouteReplace(routeFrom(bridge, r, gateways[i].Addr(), clients[i].Addr())); err != nil {
			return fmt.Errorf("route %s to the load balancer: %w", r, err)
		}
	}
	return nil
}

func routeFrom(link netlink.Link, dst netip.Prefix, via, from netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: via.AsSlice(), Src: from.AsSlice()}
}

// RemoveBalancer removes the load balancer's link and namespace. The machine's way to it goes with the bridge.
func RemoveBalancer() error {
	return errors.Join(deleteLink(layout.BalancerPort), deleteNetNS(layout.Balancer))
}
