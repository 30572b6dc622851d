//go:build linux

package pod

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Check tells everything in which the kernel differs from the wiring. An MTU of zero may be any.
func (k *Kernel) Check(s Spec) error {
	return errors.Join(k.checkHost(s), checkPod(s))
}

func (k *Kernel) checkHost(s Spec) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(k.home), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink handle: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(s.HostLink)
	if err != nil {
		return fmt.Errorf("host link %s: %w", s.HostLink, err)
	}
	errs := []error{checkLink("host link", link, s.MTU)}
	_, podMAC := MACs(s.HostLink)
	for _, a := range s.Addresses {
		errs = append(errs, checkRoute(h, link, netip.PrefixFrom(a, a.BitLen()), netip.Addr{}), checkNeighbour(h, link, a, podMAC))
	}
	if s.Bandwidth.EgressRate > 0 {
		if _, err := h.LinkByName(ifbName(s.HostLink)); err != nil {
			errs = append(errs, fmt.Errorf("egress limit %s: %w", ifbName(s.HostLink), err))
		}
	}
	return errors.Join(errs...)
}

func checkPod(s Spec) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(s.Netns), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink handle in the pod: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(s.IfName)
	if err != nil {
		return fmt.Errorf("pod link %s: %w", s.IfName, err)
	}
	errs := []error{checkLink("pod link", link, s.MTU)}
	hostMAC, _ := MACs(s.HostLink)
	for _, a := range s.Addresses {
		errs = append(errs, checkAddress(h, link, a))
		gateway := Gateway(a)
		errs = append(errs, checkRoute(h, link, netip.PrefixFrom(unspecified(a), 0), gateway), checkNeighbour(h, link, gateway, hostMAC))
	}
	return errors.Join(errs...)
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func checkLink(what string, link netlink.Link, mtu int) error {
	a := link.Attrs()
	var errs []error
	if link.Type() != "veth" {
		errs = append(errs, fmt.Errorf("%s %s is of type %s, not veth", what, a.Name, link.Type()))
	}
	if a.Flags&net.FlagUp == 0 {
		errs = append(errs, fmt.Errorf("%s %s is down", what, a.Name))
	}
	if mtu != 0 && a.MTU != mtu {
		errs = append(errs, fmt.Errorf("%s %s has MTU %d, want %d", what, a.Name, a.MTU, mtu))
	}
	return errors.Join(errs...)
}

func checkAddress(h *netlink.Handle, link netlink.Link, want netip.Addr) error {
	var have []netlink.Addr
	err := retryDump(func() (err error) {
		have, err = h.AddrList(link, familyOf(want))
		return err
	})
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return addrOf(a.IP) == want }) {
		return fmt.Errorf("pod link %s lacks address %s", link.Attrs().Name, want)
	}
	return nil
}

func checkRoute(h *netlink.Handle, link netlink.Link, dst netip.Prefix, gateway netip.Addr) error {
	var have []netlink.Route
	err := retryDump(func() (err error) {
		have, err = h.RouteList(link, familyOf(dst.Addr()))
		return err
	})
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
	}
	if !slices.ContainsFunc(have, func(r netlink.Route) bool { return prefixOf(r.Dst, dst.Addr()) == dst && addrOf(r.Gw) == gateway }) {
		return fmt.Errorf("no route to %s on %s", dst, link.Attrs().Name)
	}
	return nil
}

func checkNeighbour(h *netlink.Handle, link netlink.Link, ip netip.Addr, mac net.HardwareAddr) error {
	var have []netlink.Neigh
	err := retryDump(func() (err error) {
		have, err = h.NeighList(link.Attrs().Index, familyOf(ip))
		return err
	})
	if err != nil {
		return fmt.Errorf("list neighbours of %s: %w", link.Attrs().Name, err)
	}
	for _, n := range have {
		if addrOf(n.IP) == ip && n.State&netlink.NUD_PERMANENT != 0 && n.HardwareAddr.String() == mac.String() {
			return nil
		}
	}
	return fmt.Errorf("no permanent neighbour %s at %s on %s", ip, mac, link.Attrs().Name)
}

// Found is the host end of a Pod as the kernel has it.
type Found struct {
	HostLink string
	// Addresses to which the kernel has one of our routes through the link, sorted.
	Addresses []netip.Addr
}

// Observe lists the host ends of all Pods, sorted by name.
func (k *Kernel) Observe() ([]Found, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(k.home), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink handle: %w", err)
	}
	defer h.Close()
	links, err := hostEnds(h)
	if err != nil {
		return nil, err
	}
	var found []Found
	at := map[int]int{}
	for _, l := range links {
		a := l.Attrs()
		at[a.Index] = len(found)
		found = append(found, Found{HostLink: a.Name})
	}
	if len(found) == 0 {
		return nil, nil
	}
	if err := addRoutes(h, found, at); err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b Found) int { return cmp.Compare(a.HostLink, b.HostLink) })
	return found, nil
}

func addRoutes(h *netlink.Handle, found []Found, at map[int]int) error {
	filter := &netlink.Route{Protocol: state.RouteProtocol, Table: unix.RT_TABLE_MAIN}
	var routes []netlink.Route
	err := retryDump(func() (err error) {
		routes, err = h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		return err
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		i, ours := at[r.LinkIndex]
		if !ours || r.Dst == nil {
			continue
		}
		if ones, bits := r.Dst.Mask.Size(); ones == bits {
			found[i].Addresses = append(found[i].Addresses, addrOf(r.Dst.IP))
		}
	}
	for i := range found {
		slices.SortFunc(found[i].Addresses, netip.Addr.Compare)
	}
	return nil
}

func isHostEnd(name string) bool {
	return len(name) == len(state.PodLinkPrefix)+10 && name[:len(state.PodLinkPrefix)] == state.PodLinkPrefix
}

// retryDump repeats a dump that a change interrupted: what it gave may miss something.
func retryDump(f func() error) error {
	for range 20 {
		if err := f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return netlink.ErrDumpInterrupted
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// prefixOf reads a destination; the library has no destination for a default route.
func prefixOf(n *net.IPNet, family netip.Addr) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(unspecified(family), 0)
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}
