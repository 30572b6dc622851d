// Package underlay makes the network beneath the cluster: one bridge on the
// machine, and per node a network namespace with an eth0 that ends on a port
// of the bridge, with or without a NAT router in between. Every function
// brings about a state and may be called again.
package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

const nodeLink = "eth0"

// NetNSFile is where a named network namespace is mounted.
func NetNSFile(name string) string { return filepath.Join("/run/netns", name) }

// EnsureBridge makes the underlay bridge and gives the machine its address.
func EnsureBridge(family layout.Family) error {
	bridge, err := netlink.LinkByName(layout.Bridge)
	if isNotFound(err) {
		// Without a querier, snooping may keep neighbour discovery from a port.
		snooping := false
		// An address of its own, or it changes with the ports.
		attrs := netlink.LinkAttrs{Name: layout.Bridge, HardwareAddr: mac(2, 0)}
		bridge = &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		err = netlink.LinkAdd(bridge)
	}
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", layout.Bridge, err)
	}
	if err := quietIPv6(layout.Bridge); err != nil {
		return err
	}
	return bringUp(bridge, layout.BridgeAddrs(family))
}

// EnsureNode makes the node's namespace and connects it to the bridge. The
// sysctls are set inside, before the link comes up.
func EnsureNode(node layout.Node, family layout.Family, addrs []netip.Prefix, sysctls map[string]string) error {
	if err := ensureNetNS(node.String()); err != nil {
		return err
	}
	if err := proc.InNetNS(node.String(), func() error { return setSysctls(sysctls) }); err != nil {
		return err
	}
	if err := ensurePort(node.Port(), node.String(), nodeLink, mac(0, node)); err != nil {
		return err
	}
	return proc.InNetNS(node.String(), func() error {
		if err := configure(nodeLink, addrs); err != nil {
			return err
		}
		return defaultRoutes(nodeLink, family)
	})
}

// Readdress takes the node's addresses away and gives it others. Its routes go with the old ones.
func Readdress(node layout.Node, family layout.Family, from, to []netip.Prefix) error {
	return proc.InNetNS(node.String(), func() error {
		link, err := netlink.LinkByName(nodeLink)
		if err != nil {
			return fmt.Errorf("find link %s: %w", nodeLink, err)
		}
		for _, a := range from {
			if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("take the address %s from %s: %w", a, node, err)
			}
		}
		if err := configure(nodeLink, to); err != nil {
			return err
		}
		return defaultRoutes(nodeLink, family)
	})
}

// RemoveNode removes the node's link, its namespace and its router's.
func RemoveNode(node layout.Node) error {
	return errors.Join(
		deleteLink(node.Port()),
		deleteNetNS(node.Router()),
		deleteNetNS(node.String()),
	)
}

// Remove removes every node and the bridge.
func Remove() error {
	var errs []error
	for _, node := range layout.Nodes(layout.MaxNodes) {
		errs = append(errs, RemoveNode(node))
	}
	errs = append(errs, RemoveBalancer(), deleteLink(layout.Bridge))
	return errors.Join(errs...)
}

// SetPort takes the node's cable out (up=false) or puts it back.
func SetPort(node layout.Node, up bool) error {
	link, err := netlink.LinkByName(node.Port())
	if err != nil {
		return fmt.Errorf("find port %s: %w", node.Port(), err)
	}
	if up {
		err = netlink.LinkSetUp(link)
	} else {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("set port %s: %w", node.Port(), err)
	}
	return nil
}

func ensureNetNS(name string) error {
	if handle, err := netns.GetFromName(name); err == nil {
		return handle.Close()
	}
	// A file without a mount is what a crash between the two steps leaves.
	if err := os.Remove(NetNSFile(name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove stale namespace file: %w", err)
	}
	// NewNamed moves its thread into the new namespace.
	err := proc.Aside(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return handle.Close()
	})
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return proc.InNetNS(name, func() error { return configure("lo", nil) })
}

func deleteNetNS(name string) error {
	file := NetNSFile(name)
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// ensurePort makes a veth pair: a port on the bridge here, its peer inside
// the named namespace.
func ensurePort(port, namespace, inside string, hw net.HardwareAddr) error {
	bridge, err := netlink.LinkByName(layout.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", layout.Bridge, err)
	}
	if _, err := netlink.LinkByName(port); isNotFound(err) {
		if err := addVeth(port, namespace, inside, hw); err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find port %s: %w", port, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("put %s on the bridge: %w", port, err)
		}
	}
	// The port has no address of its own; without IPv6 it stays silent.
	if err := setSysctl("net.ipv6.conf."+port+".disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", port, err)
	}
	return nil
}

func addVeth(port, namespace, inside string, hw net.HardwareAddr) error {
	handle, err := netns.GetFromName(namespace)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", namespace, err)
	}
	defer handle.Close()
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: port},
		PeerName:         inside,
		PeerHardwareAddr: hw,
		PeerNamespace:    netlink.NsFd(handle),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth %s: %w", port, err)
	}
	return nil
}

// mac keeps a node's hardware address the same over reboots, as a real card
// does, so that neighbours need not learn anew.
func mac(kind byte, node layout.Node) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xc8, 0, 0, kind, byte(node)}
}

// configure brings a link of this namespace up with its addresses.
func configure(name string, addrs []netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := quietIPv6(name); err != nil {
		return err
	}
	return bringUp(link, addrs)
}

func bringUp(link netlink.Link, addrs []netip.Prefix) error {
	name := link.Attrs().Name
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// quietIPv6 lets addresses work at once: nothing here needs duplicate address
// detection or router advertisements.
func quietIPv6(link string) error {
	for _, key := range []string{"accept_dad", "accept_ra"} {
		err := setSysctl("net.ipv6.conf."+link+"."+key, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func defaultRoutes(name string, family layout.Family) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	for _, gw := range layout.BridgeAddrs(family) {
		dst := netip.MustParsePrefix("0.0.0.0/0")
		if gw.Addr().Is6() {
			dst = netip.MustParsePrefix("::/0")
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: gw.Addr().AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add the default route via %s: %w", gw.Addr(), err)
		}
	}
	return nil
}

// Route is a static route over the underlay.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// EnsureRoutes sets routes inside a node.
func EnsureRoutes(node layout.Node, routes []Route) error {
	return proc.InNetNS(node.String(), func() error {
		for _, r := range routes {
			if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(r.Dst), Gw: r.Via.AsSlice()}); err != nil {
				return fmt.Errorf("route %s via %s: %w", r.Dst, r.Via, err)
			}
		}
		return nil
	})
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func setSysctls(values map[string]string) error {
	for key, value := range values {
		if err := setSysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

// setSysctl takes the key in the dotted form of sysctl(8), where a slash
// stands for a dot inside a name.
func setSysctl(key, value string) error {
	if err := os.WriteFile(SysctlFile(key), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	return nil
}

// SysctlFile is the file of a sysctl key.
func SysctlFile(key string) string {
	swap := strings.NewReplacer(".", "/", "/", ".")
	return filepath.Join("/proc/sys", swap.Replace(key))
}
