//go:build linux

// Package node looks at the links of the machine that are not ours: their addresses, MTU and
// default routes, from which the mesh learns how this node is reached. It changes nothing.
package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/kernel/link"
)

// Kernel is the links of the network namespace in which New was called.
type Kernel struct {
	nl *netlink.Handle
	// sysctl is where net/ is mounted. It shows the namespace of the thread that opens a file in
	// it, so Links must be called in the namespace.
	sysctl string
}

// New opens a socket in the network namespace of the calling thread. procSysNet is the mount of
// /proc/sys/net.
func New(procSysNet string) (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &Kernel{nl: h, sysctl: procSysNet}, nil
}

// Close gives the socket back.
func (k *Kernel) Close() { k.nl.Close() }

// IPv6 tells whether the kernel has IPv6.
func (k *Kernel) IPv6() bool {
	_, err := os.Stat(filepath.Join(k.sysctl, "ipv6"))
	return err == nil
}

// Links lists every link but those of Pods, with its addresses, in the kernel's order.
func (k *Kernel) Links(ctx context.Context) ([]facts.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := link.Dump(k.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := link.Dump(func() ([]netlink.Addr, error) { return k.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	defaults, err := k.defaultRoutes()
	if err != nil {
		return nil, err
	}
	byLink := make(map[int][]facts.Address, len(links))
	for i := range addrs {
		if a, ok := addressFrom(&addrs[i]); ok {
			byLink[addrs[i].LinkIndex] = append(byLink[addrs[i].LinkIndex], a)
		}
	}
	out := make([]facts.Link, 0, len(links))
	for _, l := range links {
		attrs := l.Attrs()
		if strings.HasPrefix(attrs.Name, "weftp") || strings.HasPrefix(attrs.Name, "weftb") {
			continue
		}
		out = append(out, facts.Link{
			Name: attrs.Name, Alias: attrs.Alias, MTU: attrs.MTU,
			Up: attrs.Flags&net.FlagUp != 0, Loopback: attrs.Flags&net.FlagLoopback != 0,
			Addresses: byLink[attrs.Index], DefaultRoute: defaults[attrs.Index],
			AcceptRA: k.acceptRA(attrs.Name),
		})
	}
	return out, nil
}

func addressFrom(a *netlink.Addr) (facts.Address, bool) {
	if a.IPNet == nil {
		return facts.Address{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	bits, size := a.Mask.Size()
	if size == 32 {
		addr = addr.Unmap()
	}
	const v6Transient = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	// The flag of IPv6's temporary addresses means "secondary" on an IPv4 address.
	transient := addr.Is6() && a.Flags&v6Transient != 0
	return facts.Address{Addr: addr, Bits: bits, Transient: transient}, ok
}

// defaultRoutes are the links that a default route of the main table leads through.
func (k *Kernel) defaultRoutes() (map[int]bool, error) {
	out := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}
		routes, err := link.Dump(func() ([]netlink.Route, error) {
			return k.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for i := range routes {
			out[routes[i].LinkIndex] = true
			for _, hop := range routes[i].MultiPath {
				out[hop.LinkIndex] = true
			}
		}
	}
	delete(out, 0)
	return out, nil
}

// acceptRA is empty where it cannot be read: without IPv6, or for a link that is just gone.
func (k *Kernel) acceptRA(name string) string {
	text, err := os.ReadFile(filepath.Join(k.sysctl, "ipv6", "conf", name, "accept_ra"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
