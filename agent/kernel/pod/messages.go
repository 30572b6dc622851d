//go:build linux

package pod

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// The gateways of every Pod. Nobody has these addresses: the Pod has a permanent neighbour entry
// for them that holds the hardware address of the host end.
var (
	Gateway4 = netip.MustParseAddr("169.254.1.1")
	Gateway6 = netip.MustParseAddr("fe80::1")
)

// Gateway is the Pod's gateway for the family of the address.
func Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// createVeth makes the pair: the host end here, the other end in the Pod's namespace. One queue is
// enough, as a veth without XDP has no use for more, and each costs a directory in sysfs. Hardware
// addresses that are given, not drawn, are left alone by udev and systemd-networkd, and are known
// before the link is.
func createVeth(s Spec, host, pod net.HardwareAddr) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	attrs := append([]nl.NetlinkRequestData{info}, linkAttrs(s.HostLink, s.MTU, host)...)
	linkInfo := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	linkInfo.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := linkInfo.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range linkAttrs(s.IfName, s.MTU, pod) {
		peer.AddChild(a)
	}
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(s.Netns)))
	return newMessage("create the veth pair "+s.HostLink, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(attrs, linkInfo)...)
}

func linkAttrs(name string, mtu int, mac net.HardwareAddr) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
		nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)),
	}
}

// The numbers of per-link IPv4 settings (include/uapi/linux/ip.h), which are not in x/sys.
const (
	devconfForwarding      = 1
	devconfAcceptRedirects = 4
	devconfSendRedirects   = 6
	devconfRPFilter        = 8
	devconfAcceptLocal     = 23
	devconfRouteLocalnet   = 26
)

// markHostEnd sets the host end up and gives it its alias and settings: forwarding, no look at the way
// back to the source (the fail-closed table knows which addresses the Pod may send from, and a second
// route lookup for each packet, which only the two settings together avoid where there are policy
// routing rules, says less), no redirects, a way for the
// node's loopback addresses where wanted (from a Pod, the fail-closed table drops them), and no IPv6
// address of its own. The kernel does not get to make one first: it waits for the carrier, and the
// Pod's end is still down.
func markHostEnd(s Spec, ipv6 bool) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	for _, c := range []struct {
		number int
		value  uint32
	}{{devconfForwarding, 1}, {devconfAcceptRedirects, 0}, {devconfSendRedirects, 0}, {devconfRPFilter, 0}, {devconfAcceptLocal, 1}} {
		conf.AddRtAttr(c.number, nl.Uint32Attr(c.value))
	}
	if s.FromLoopback {
		conf.AddRtAttr(devconfRouteLocalnet, nl.Uint32Attr(1))
	}
	if ipv6 {
		spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(nl.IN6_ADDR_GEN_MODE_NONE))
	}
	return newMessage("set up the host end "+s.HostLink, unix.RTM_SETLINK, 0, info,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.HostLink)),
		nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(state.LinkAlias)), spec)
}

// addClsact adds a qdisc for programs in both directions, with nothing in it. While the link is down it costs no packet: the kernel stops the
// queue of a link that is up (dev_deactivate), and drops what is sent meanwhile.
func addClsact(index int) message {
	tc := &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	return newMessage("add a clsact qdisc", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tc,
		nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("clsact")))
}

// noAutoAddress stops the kernel from making an IPv6 address, and from asking whether anybody has it.
func noAutoAddress(index int) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(nl.IN6_ADDR_GEN_MODE_NONE))
	return newMessage("set the IPv6 address mode of the Pod's link", unix.RTM_SETLINK, 0, info, spec)
}

func setUp(index int) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Flags, info.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	return newMessage("set the link up", unix.RTM_SETLINK, 0, info)
}

// syncCarrier makes the kernel act on the carrier now. It would do so soon, from a work queue; until
// then the end that was up first drops what it is given. (RTM_GETLINK does so since Linux 6.8.)
func syncCarrier(index int) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	return newMessage("wait for the carrier", unix.RTM_GETLINK, 0, info)
}

// syncCarrierIn does so for a link of another namespace (IFLA_TARGET_NETNSID, Linux 4.20).
func syncCarrierIn(far farEnd) message {
	m := syncCarrier(far.index)
	m.req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(far.netns))))
	return m
}

func addAddress(index int, p netip.Prefix) message {
	info := nl.NewIfAddrmsg(familyOf(p.Addr()))
	info.Index, info.Prefixlen = uint32(index), uint8(p.Bits())
	parts := []nl.NetlinkRequestData{info, nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice())}
	if p.Addr().Is6() {
		info.Flags = unix.IFA_F_NODAD & 0xff // nobody else can be on this link
		if p.Addr().IsLinkLocalUnicast() {
			info.Scope = unix.RT_SCOPE_LINK
		}
	} else {
		parts = append(parts, nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	}
	return newMessage("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...)
}

// ndmsg is struct ndmsg.
type ndmsg struct {
	family int
	index  int
	state  uint16
}

func (m ndmsg) Len() int { return unix.SizeofNdMsg }

func (m ndmsg) Serialize() []byte {
	b := make([]byte, m.Len())
	b[0] = byte(m.family)
	binary.NativeEndian.PutUint32(b[4:], uint32(m.index))
	binary.NativeEndian.PutUint16(b[8:], m.state)
	return b
}

func addNeighbour(index int, ip netip.Addr, mac net.HardwareAddr) message {
	return newMessage("add neighbour "+ip.String(), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		ndmsg{family: familyOf(ip), index: index, state: unix.NUD_PERMANENT},
		nl.NewRtAttr(unix.NDA_DST, ip.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, mac))
}

// route of the main table. An invalid gateway means that the destination is on the link, an invalid
// source that the kernel chooses one.
type route struct {
	dst             netip.Prefix
	gateway, source netip.Addr
	protocol        uint8
}

func addRoute(index int, r route) message {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(familyOf(r.dst.Addr())), Dst_len: uint8(r.dst.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: r.protocol, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST,
	}}
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))}
	if r.dst.Bits() > 0 {
		parts = append(parts, nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()))
	}
	if r.gateway.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_GATEWAY, r.gateway.AsSlice()))
	} else if r.dst.Addr().Is4() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	if r.source.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_PREFSRC, r.source.AsSlice()))
	}
	return newMessage("add route to "+r.dst.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...)
}

// defaultRoute is the Pod's way out for one of its addresses, which is there already.
//
// The IPv6 route names the address as the source. Without it the kernel goes through all addresses of the namespace for
// each packet of a socket that has none: DNS queries, ICMPv6, the first of a connection (ipv6_dev_get_saddr). It takes
// none that is tentative, which ours never is. For IPv4 the kernel keeps its choice in the route; with a source that route
// would go with the address, also where the Pod has given itself another.
func defaultRoute(index int, a netip.Addr) []message {
	out := route{dst: netip.PrefixFrom(unspecified(a), 0), gateway: Gateway(a), protocol: unix.RTPROT_BOOT}
	if a.Is6() {
		out.source = a
		return []message{addRoute(index, out)}
	}
	return []message{addRoute(index, route{dst: netip.PrefixFrom(out.gateway, 32), protocol: unix.RTPROT_BOOT}), addRoute(index, out)}
}

// setGroup puts a link into a group of links.
func setGroup(name string, group uint32) message {
	return newMessage("set the group of link "+name, unix.RTM_SETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
}

// deleteGroup deletes all links of a group, and the other ends of those that are pairs.
func deleteGroup(group uint32) message {
	return newMessage("delete links", unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
}

func deleteLink(name string) message {
	return newMessage("delete link "+name, unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}
