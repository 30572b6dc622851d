//go:build linux

package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// HostEnd is the host end of a Pod's pair. As a wish it is up, and an MTU of zero means no change.
type HostEnd struct {
	Name string
	// MTU in bytes.
	MTU int
	Up  bool
	// Addresses are the Pod's; HostEnds leaves them out.
	Addresses []netip.Addr

	far farEnd
}

// farEnd is where the Pod's end is: its index, in the namespace that this one knows by a number.
type farEnd struct{ index, netns int }

// HostEnds lists the host ends that are ours, by name, without looking at routes.
func (k *Kernel) HostEnds() ([]HostEnd, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(k.home), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink handle: %w", err)
	}
	defer h.Close()
	links, err := hostEnds(h)
	if err != nil {
		return nil, err
	}
	var out []HostEnd
	for _, l := range links {
		a := l.Attrs()
		if a.Alias == state.LinkAlias {
			out = append(out, HostEnd{Name: a.Name, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, far: farEnd{a.ParentIndex, a.NetNsID}})
		}
	}
	return out, nil
}

// hostEnds lists the links that are host ends by kind and name, whoever made them.
func hostEnds(h *netlink.Handle) ([]netlink.Link, error) {
	var links []netlink.Link
	if err := retryDump(func() (err error) { links, err = h.LinkList(); return err }); err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		return l.Type() != "veth" || !isHostEnd(l.Attrs().Name)
	}), nil
}

// Mend sets a host end up again, with its MTU and the Pod's neighbour entries, which the kernel
// forgets when a link goes down. What is right already is not written: that would be an event. That
// the link is gone is no error: so is its Pod. The routes are the caller's.
func (k *Kernel) Mend(have, want HostEnd) error {
	host := <-k.sockets
	defer func() { k.sockets <- host }()
	index, err := host.index(want.Name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	_, podMAC := MACs(want.Name)
	var messages []message
	if want.MTU != 0 && want.MTU != have.MTU {
		messages = append(messages, setMTU(index, want.MTU))
	}
	if len(messages) > 0 || !have.Up {
		messages = append(messages, markHostEnd(Spec{HostLink: want.Name}, k.ipv6))
	}
	for _, a := range want.Addresses {
		messages = append(messages, addNeighbour(index, a, podMAC))
	}
	if err := host.do(append(messages, syncCarrier(index))); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("mend %s: %w", want.Name, err)
	}
	if have.far.index > 0 && have.far.netns >= 0 {
		// The Pod's end lost its carrier too, and drops the Pod's answers until the kernel acts on the new one: by
		// itself within a second, so that a failure here does no harm.
		_ = host.do([]message{syncCarrierIn(have.far)})
	}
	return nil
}

func setMTU(index, mtu int) message {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	return newMessage("set the MTU of the link", unix.RTM_SETLINK, 0, info, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}
