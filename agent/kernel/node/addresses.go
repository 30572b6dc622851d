//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// Addresses are those by which the node can be the sender of a packet to one of its Pods: of every link
// in the network namespace in which NewAddresses was called, but loopback and link-local ones.
type Addresses struct {
	nl     *netlink.Handle
	events *wire.Events
}

// NewAddresses opens the sockets in the network namespace of the calling thread.
func NewAddresses() (*Addresses, error) {
	events, err := wire.NewEvents(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a netlink socket: %w", err), events.Close())
	}
	return &Addresses{nl: h, events: events}, nil
}

// Close gives the sockets back, and ends a Subscribe.
func (a *Addresses) Close() error {
	a.nl.Close()
	return a.events.Close()
}

// List asks the kernel, sorted. It waits for the kernel's one lock of network configuration, which is taken for
// every interface that comes or goes: while many Pods start, that can last seconds.
func (a *Addresses) List(ctx context.Context) ([]netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := link.Dump(func() ([]netlink.Addr, error) { return a.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for i := range list {
		if got, ok := addressFrom(&list[i]); ok && reachesPods(got.Addr) {
			out = append(out, got.Addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// Subscribe tells when List may give something else. Of the link-local addresses that the interfaces of
// Pods get it says nothing: nobody has to look again because a Pod starts.
func (a *Addresses) Subscribe(ctx context.Context) (<-chan struct{}, error) {
	return a.events.Subscribe(ctx, concerns, nil)
}

func reachesPods(a netip.Addr) bool { return !a.IsLoopback() && !a.IsLinkLocalUnicast() }

// concerns tells whether an event is about an address that List gives; one that cannot be read may be.
func concerns(m wire.Message) bool {
	if m.Type != unix.RTM_NEWADDR && m.Type != unix.RTM_DELADDR {
		return false
	}
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return true
	}
	attrs := wire.Parse(m.Data[unix.SizeofIfAddrmsg:])
	own := wire.Find(attrs, unix.IFA_LOCAL) // the other end's is in IFA_ADDRESS then
	if own == nil {
		own = wire.Find(attrs, unix.IFA_ADDRESS)
	}
	addr, ok := netip.AddrFromSlice(own)
	return !ok || reachesPods(addr)
}
