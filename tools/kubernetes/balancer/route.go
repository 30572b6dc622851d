package main

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setRoute spreads the flows to an address over the nodes; the kernel hashes ports too, see the
// sysctl fib_multipath_hash_policy that the testbed sets. Beneath lies an unreachable route for the whole range.
func setRoute(addr netip.Addr, via []netip.Addr) error {
	route := &netlink.Route{Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	// IPv6 would add to the old next hops or replace one of them only.
	if len(via) == 0 || addr.Is6() {
		if err := deleteRoutes(route.Dst, addr); err != nil {
			return err
		}
	}
	if len(via) == 0 {
		return nil
	}
	for _, node := range via {
		route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{Gw: node.AsSlice()})
	}
	return netlink.RouteReplace(route)
}

func deleteRoutes(dst *net.IPNet, addr netip.Addr) error {
	family := netlink.FAMILY_V6
	if addr.Is4() {
		family = netlink.FAMILY_V4
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: dst, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for i := range routes {
		if err := netlink.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
