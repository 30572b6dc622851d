package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// LinkAlias marks the links that are ours.
const LinkAlias = "weftnet"

// LinkKind is the kernel's name for the type of a link.
type LinkKind string

// The kinds of mesh links.
const (
	// LinkWireGuard is a kernel WireGuard device; the agent creates it.
	LinkWireGuard LinkKind = "wireguard"
	// LinkTUN is the device of wireguard-go; the wireguard process creates it.
	LinkTUN LinkKind = "tun"
)

// Link is one of our links. As a wish it has both its kind and its addresses in full: an address
// that is not listed goes away, but for link-local ones, which are the kernel's.
type Link struct {
	Name string
	Kind LinkKind
	// MTU in bytes; as a wish, zero means no change.
	MTU int
	// Addresses with the length of their prefix, sorted and unique.
	Addresses []netip.Prefix
	Up        bool
	// Alias is LinkAlias for every link that is ours.
	Alias string
}

// Equal tells whether every field is the same.
func (l Link) Equal(o Link) bool {
	return l.Name == o.Name && l.Kind == o.Kind && l.MTU == o.MTU && l.Up == o.Up && l.Alias == o.Alias &&
		slices.Equal(l.Addresses, o.Addresses)
}

// Compare orders links by name.
func (l Link) Compare(o Link) int { return cmp.Compare(l.Name, o.Name) }

// String is one line in the words of `ip link` and `ip address`.
func (l Link) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s type %s mtu %d", l.Name, l.Kind, l.MTU)
	if l.Up {
		b.WriteString(" up")
	} else {
		b.WriteString(" down")
	}
	if l.Alias != "" {
		fmt.Fprintf(&b, " alias %s", l.Alias)
	}
	fmt.Fprintf(&b, " addresses %s", joinPrefixes(l.Addresses))
	return b.String()
}

// Normalized returns a copy with its addresses sorted and unique. Unlike a route's destination an
// address keeps its host bits.
func (l Link) Normalized() Link {
	l.Addresses = slices.Clone(l.Addresses)
	slices.SortFunc(l.Addresses, netip.Prefix.Compare)
	l.Addresses = slices.Compact(l.Addresses)
	return l
}
