//go:build linux

// Package probe finds out what a node's kernel can do, by doing it: each probe makes the real
// thing in a network namespace of its own, which goes with the probe, so that nothing of it is ever
// seen on the node. An answer is yes, no, or could not tell, with the reason.
package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
)

// Need says what becomes of a node that lacks a feature.
type Need int

const (
	// Required : Weftnet cannot run without it.
	Required Need = iota
	// Backend : one of the features of this need is enough.
	Backend
	// Optional : something smaller is missing, as the feature's Use says.
	Optional
)

// Feature is one thing that the kernel should be able to do.
type Feature struct {
	Name string
	Need Need
	// Use says what it is for, and since when the kernel has it.
	Use string
	link.Probe
}

type probe struct {
	Feature
	run func(ctx context.Context) error
}

func probes() []probe {
	return []probe{
		{Feature{Name: "wireguard", Need: Backend, Use: "the mesh in the kernel (Linux 5.6, module wireguard)"}, wireguard},
		{Feature{Name: "tun", Need: Backend, Use: "the mesh in userspace (/dev/net/tun, module tun)"}, tun},
		{Feature{Name: "nftables-inet", Need: Required, Use: "fail-closed rules (Linux 4.18, module nf_tables)"}, filterTable},
		{Feature{Name: "nftables-nat", Need: Required, Use: "masquerade to the outside and hostPorts, both families in one table (Linux 5.2, module nft_masq)"}, natTable},
		{Feature{Name: "veth", Need: Required, Use: "the interfaces of Pods (module veth)"}, veth},
		{Feature{Name: "rules-ipv4", Need: Required, Use: "Pod to node inside the mesh (CONFIG_IP_MULTIPLE_TABLES)"}, rule(unix.AF_INET)},
		{Feature{Name: "rules-ipv6", Need: Optional, Use: "Pod to node inside the mesh over IPv6 (CONFIG_IPV6_MULTIPLE_TABLES)"}, rule(unix.AF_INET6)},
		{Feature{Name: "conntrack", Need: Required, Use: "cutting UDP flows of hostPorts that went away (module nf_conntrack_netlink)"}, conntrack},
		{Feature{Name: "ifb", Need: Optional, Use: "limiting what a Pod sends, by the bandwidth annotation (module ifb)"}, ifb},
		{Feature{Name: "tbf", Need: Optional, Use: "limiting what a Pod receives, by the bandwidth annotation (module sch_tbf)"}, tbf},
	}
}

// Features asks the kernel for all of them.
func Features(ctx context.Context) []Feature {
	var features []Feature
	inside(func(err error) {
		for _, p := range probes() {
			result := p.Feature
			if err != nil {
				result.Probe = link.Probe{Answer: link.Unknown, Reason: err.Error()}
			} else {
				result.Probe = answer(p.run(ctx))
			}
			features = append(features, result)
		}
	})
	return features
}

// inside runs f on a thread in a network namespace of its own, which ends with the thread.
func inside(f func(error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			f(fmt.Errorf("make a network namespace to try things in (root is needed): %w", err))
			return
		}
		f(nil)
	}()
	<-done
}

// answer makes of an error one of the three answers.
func answer(err error) link.Probe {
	switch {
	case err == nil:
		return link.Probe{Answer: link.Yes, Reason: "tried, and it works"}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return link.Probe{Answer: link.Unknown, Reason: fmt.Sprintf("not allowed to try (root and CAP_NET_ADMIN are needed): %v", err)}
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV),
		errors.Is(err, unix.ENXIO), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
		return link.Probe{Answer: link.No, Reason: err.Error()}
	default:
		return link.Probe{Answer: link.Unknown, Reason: err.Error()}
	}
}

func attributes(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func wireguard(context.Context) error {
	return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attributes("probe-wg")})
}

func veth(context.Context) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes("probe-a"), PeerName: "probe-b"})
}

func ifb(context.Context) error {
	return netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attributes("probe-ifb")})
}

func tbf(context.Context) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       1 << 20, Limit: 1 << 16, Buffer: 1 << 16,
	})
}

// tun makes a TUN device that goes when its descriptor is closed.
func tun(context.Context) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err // names the file already
	}
	defer f.Close()
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "probe-tun")
	request.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("make a TUN device: %w", errno)
	}
	return nil
}

func rule(family int) func(context.Context) error {
	return func(context.Context) error {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = family, 8700, 87
		return netlink.RuleAdd(r)
	}
}

func conntrack(context.Context) error {
	_, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	return err
}

func filterTable(context.Context) error {
	return withTable("probe-filter", func(c *nftables.Conn, t *nftables.Table) {
		chain := c.AddChain(&nftables.Chain{Table: t, Name: "out", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}})
	})
}

func natTable(context.Context) error {
	return withTable("probe-nat", func(c *nftables.Conn, t *nftables.Table) {
		chain := c.AddChain(&nftables.Chain{Table: t, Name: "post", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	})
}

func withTable(name string, fill func(*nftables.Conn, *nftables.Table)) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	fill(c, c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name}))
	return c.Flush()
}
