package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// ErrConflict says that a link with one of our names is not ours.
var ErrConflict = errors.New("a link with this name is not Weftnet's; remove or rename it")

// Apply carries out a change that Diff found. What fails on one link does not keep it from the
// others; a link that vanished meanwhile is for the next round.
func (k *Kernel) Apply(ctx context.Context, change Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var faults []error
	for _, name := range change.Delete {
		faults = append(faults, k.remove(name))
	}
	for _, name := range change.Create {
		faults = append(faults, k.create(name))
	}
	for _, s := range change.Set {
		faults = append(faults, k.set(s))
	}
	return errors.Join(append(faults, conflicts(change))...)
}

func conflicts(change Change) error {
	var faults []error
	for _, l := range change.Conflicts {
		faults = append(faults, fmt.Errorf("use link %s (type %s, alias %q): %w", l.Name, l.Kind, l.Alias, ErrConflict))
	}
	return errors.Join(faults...)
}

func (k *Kernel) remove(name string) error {
	l, err := k.find(name)
	if l == nil || err != nil {
		return err
	}
	if err := k.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// find returns nil for a link that is not there.
func (k *Kernel) find(name string) (netlink.Link, error) {
	l, err := k.nl.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	switch {
	case errors.As(err, &notFound), errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up link %s: %w", name, err)
	}
	return l, nil
}

// create is no error when the link is there already: the settings that follow make it ours.
func (k *Kernel) create(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := k.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create WireGuard link %s: %w", name, err)
	}
	return nil
}

func (k *Kernel) set(s Settings) error {
	l, err := k.find(s.Name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("configure link %s: it is gone: %w", s.Name, unix.ENODEV)
	}
	if s.Alias != "" {
		if err := k.nl.LinkSetAlias(l, s.Alias); err != nil {
			return fmt.Errorf("set alias of %s: %w", s.Name, err)
		}
	}
	if s.MTU != 0 {
		if err := k.nl.LinkSetMTU(l, s.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", s.Name, s.MTU, err)
		}
	}
	if err := k.setAddresses(l, s); err != nil {
		return err
	}
	return k.setUp(l, s)
}

// setAddresses adds before it deletes, so that a link never is without one in between.
func (k *Kernel) setAddresses(l netlink.Link, s Settings) error {
	for _, a := range s.Add {
		if err := k.nl.AddrReplace(l, address(a)); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, s.Name, err)
		}
	}
	for _, a := range s.Del {
		if err := k.nl.AddrDel(l, address(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s from %s: %w", a, s.Name, err)
		}
	}
	return nil
}

func (k *Kernel) setUp(l netlink.Link, s Settings) error {
	if !s.SetUp {
		return nil
	}
	set, verb := k.nl.LinkSetDown, "down"
	if s.Up {
		set, verb = k.nl.LinkSetUp, "up"
		if err := k.noLinkLocal(l); err != nil {
			return err
		}
	}
	if err := set(l); err != nil {
		return fmt.Errorf("set link %s %s: %w", s.Name, verb, err)
	}
	return nil
}

// noLinkLocal keeps the kernel from inventing a link-local address and soliciting routers in the
// tunnel. Kernel WireGuard does so by itself, and refuses nothing; a kernel without IPv6 does.
func (k *Kernel) noLinkLocal(l netlink.Link) error {
	const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
	err := k.nl.LinkSetIP6AddrGenMode(l, addrGenModeNone)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("keep link-local addresses off %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// address leaves the routes to us (noprefixroute) and does not wait for duplicate address
// detection, which nobody can answer on a link without neighbours.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Flags: unix.IFA_F_NOPREFIXROUTE,
	}
	if p.Addr().Is6() {
		a.Flags |= unix.IFA_F_NODAD
	}
	return a
}

// Adopt marks a link that the wireguard process has just made as ours.
func (k *Kernel) Adopt(name string) error {
	return k.set(Settings{Name: name, Alias: state.LinkAlias})
}
