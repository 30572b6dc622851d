package link

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Uplink is a link that holds one of the node's addresses.
type Uplink struct {
	Name string
	// MTU in bytes.
	MTU int
	// Address is the node's address that it holds.
	Address netip.Addr
}

// Uplinks says which link holds each of the addresses, sorted by address. An address that no link
// holds is left out: it belongs to a NAT in front of the node.
func (k *Kernel) Uplinks(ctx context.Context, addresses []netip.Addr) ([]Uplink, error) {
	held, err := k.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(held, func(u Uplink) bool { return !slices.Contains(addresses, u.Address) }), nil
}

// Addresses lists every global address of every link that is not ours nor loopback, sorted by
// address.
func (k *Kernel) Addresses(ctx context.Context) ([]Uplink, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := Dump(k.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := Dump(func() ([]netlink.Addr, error) { return k.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex := make(map[int]*netlink.LinkAttrs, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	var out []Uplink
	for i := range addrs {
		l, addr := byIndex[addrs[i].LinkIndex], prefixOf(addrs[i].IPNet).Addr()
		if l != nil && !ours(l.Name) && addr.IsGlobalUnicast() {
			out = append(out, Uplink{Name: l.Name, MTU: l.MTU, Address: addr})
		}
	}
	slices.SortFunc(out, func(a, b Uplink) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// MinMTU is the smallest MTU of the uplinks, and zero of none.
func MinMTU(uplinks []Uplink) int {
	smallest := 0
	for _, u := range uplinks {
		if smallest == 0 || u.MTU < smallest {
			smallest = u.MTU
		}
	}
	return smallest
}
