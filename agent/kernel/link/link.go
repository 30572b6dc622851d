// Package link owns the mesh links weft0, weft1 and so on: that they exist where the agent is the
// one to make them, their MTU, addresses, alias and state. It also says whether the kernel has
// WireGuard, and when the links of the node or their addresses change.
// The links of Pods (weftp*, weftb*) belong to agent/kernel/pod and are left alone.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// meshName is the shape of the names of our links; the probe's is the one with an x.
var meshName = regexp.MustCompile(`^weft([0-9]+|x[0-9]*)$`)

// Interface is what both Kernel and Fake do.
type Interface interface {
	// Observe lists the mesh links, sorted by name: those whose name is of our shape, whether or
	// not they carry our alias.
	Observe(ctx context.Context) ([]state.Link, error)
	// Apply carries out a change that Diff found.
	Apply(ctx context.Context, change Change) error
}

// Ensure makes the mesh links what they are wanted to be, and says what it took.
func Ensure(ctx context.Context, k Interface, want []state.Link) (Change, error) {
	have, err := k.Observe(ctx)
	if err != nil {
		return Change{}, err
	}
	change := Diff(have, want)
	return change, k.Apply(ctx, change)
}

// Cleanup removes every mesh link that is ours.
func Cleanup(ctx context.Context, k Interface) (Change, error) { return Ensure(ctx, k, nil) }

// Kernel is the links of the network namespace in which New was called.
type Kernel struct {
	nl *netlink.Handle
}

// New opens a socket in the network namespace of the calling thread.
func New() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &Kernel{nl: h}, nil
}

// Close gives the socket back.
func (k *Kernel) Close() { k.nl.Close() }

// Ensure makes the mesh links what they are wanted to be, and says what it took.
func (k *Kernel) Ensure(ctx context.Context, want []state.Link) (Change, error) {
	return Ensure(ctx, k, want)
}

// Cleanup removes every mesh link that is ours.
func (k *Kernel) Cleanup(ctx context.Context) (Change, error) { return Cleanup(ctx, k) }

// Observe lists the mesh links, sorted by name.
func (k *Kernel) Observe(ctx context.Context) ([]state.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := Dump(k.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []state.Link
	for _, l := range links {
		if !meshName.MatchString(l.Attrs().Name) {
			continue
		}
		observed, err := k.observe(l)
		if errors.Is(err, unix.ENODEV) {
			continue // gone since the list was taken
		}
		if err != nil {
			return nil, err
		}
		out = append(out, observed)
	}
	slices.SortFunc(out, state.Link.Compare)
	return out, nil
}

// Dropped tells, by name of each mesh link, how many packets it did not take since it was made. The TUN link of the userspace WireGuard
// takes none while its queue is full (500 packets, TUN_READQ_SIZE in Linux' drivers/net/tun.c), for its process does not come to read
// it; the kernel's WireGuard drops the oldest of those that wait for a peer's handshake when they are too many.
func (k *Kernel) Dropped(ctx context.Context) (map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := Dump(k.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := map[string]uint64{}
	for _, l := range links {
		if attrs := l.Attrs(); meshName.MatchString(attrs.Name) && attrs.Statistics != nil {
			out[attrs.Name] = attrs.Statistics.TxDropped
		}
	}
	return out, nil
}

func (k *Kernel) observe(l netlink.Link) (state.Link, error) {
	attrs := l.Attrs()
	addrs, err := Dump(func() ([]netlink.Addr, error) { return k.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return state.Link{}, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
	}
	out := state.Link{
		Name: attrs.Name, Kind: kindOf(l), MTU: attrs.MTU, Alias: attrs.Alias,
		Up: attrs.Flags&net.FlagUp != 0,
	}
	for _, a := range addrs {
		if prefix := prefixOf(a.IPNet); prefix.IsValid() && !prefix.Addr().IsLinkLocalUnicast() {
			out.Addresses = append(out.Addresses, prefix)
		}
	}
	return out.Normalized(), nil
}

func kindOf(l netlink.Link) state.LinkKind {
	if l.Type() == "tuntap" { // the library's name for what the kernel calls tun
		return state.LinkTUN
	}
	return state.LinkKind(l.Type())
}

// prefixOf keeps the host bits.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones)
}
