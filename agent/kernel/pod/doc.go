//go:build linux

// Package pod wires a Pod to its node: a routed veth pair whose host end has no address, one host
// route per Pod address, and in the Pod a /32 and a /128 with a default route through a link-local
// gateway that is never asked for its hardware address, since both sides know the other's.
//
// The host end (weftp<hash>) stays in the namespace in which the package was made, the other end is
// born in the Pod's. Each side is written with one send of several netlink messages, because what
// counts while a Pod starts is how often the kernel is entered and its RTNL lock is taken. Whatever
// has a netlink attribute is not written through /proc.
package pod
