//go:build linux

package pod

import (
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// queueMicros is how long a packet may wait for its turn before the queue is full, in microseconds.
const queueMicros = 25_000

// etherHeader is the size of an Ethernet header, which TBF counts and the MTU does not, in bytes.
const etherHeader = 14

// limit shapes the Pod's traffic: towards the Pod as it leaves the host end, and from the Pod, since
// what comes in cannot be queued, by sending it through an IFB link that queues on its way out.
func (k *Kernel) limit(hostLink string, b state.Bandwidth, mtu int) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(k.home), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink handle: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("find link %s: %w", hostLink, err)
	}
	if b.IngressRate > 0 {
		if err := addTBF(h, link.Attrs().Index, b.IngressRate, b.IngressBurst, mtu); err != nil {
			return fmt.Errorf("limit ingress on %s: %w", hostLink, err)
		}
	}
	if b.EgressRate > 0 {
		if err := limitEgress(h, link, b, mtu); err != nil {
			return fmt.Errorf("limit egress on %s: %w", hostLink, err)
		}
	}
	return nil
}

func limitEgress(h *netlink.Handle, link netlink.Link, b state.Bandwidth, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags, attrs.MTU = ifbName(link.Attrs().Name), unix.IFF_UP, mtu
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	ifb := &netlink.Ifb{LinkAttrs: attrs}
	if err := h.LinkAdd(ifb); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create %s: %w", attrs.Name, err)
	}
	made, err := h.LinkByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", attrs.Name, err)
	}
	if err := errors.Join(h.LinkSetAlias(made, state.LinkAlias), h.LinkSetUp(made)); err != nil {
		return fmt.Errorf("set up %s: %w", attrs.Name, err)
	}
	if err := addTBF(h, made.Attrs().Index, b.EgressRate, b.EgressBurst, mtu); err != nil {
		return err
	}
	return redirectIngress(h, link.Attrs().Index, made.Attrs().Index)
}

// redirectIngress sends everything that comes in on one link out through another.
func redirectIngress(h *netlink.Handle, from, to int) error {
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := h.QdiscReplace(qdisc); err != nil {
		return fmt.Errorf("add the ingress qdisc: %w", err)
	}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from, Parent: qdisc.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
		Actions:     []netlink.Action{netlink.NewMirredAction(to)},
	}
	if err := h.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirect ingress: %w", err)
	}
	return nil
}

func addTBF(h *netlink.Handle, index int, rate, burst uint64, mtu int) error {
	t := tokens(rate, burst, mtu)
	err := h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       t.rate, Limit: t.limit, Buffer: t.buffer,
	})
	if err != nil {
		return fmt.Errorf("add the token bucket: %w", err)
	}
	return nil
}

// bucket is a token bucket in the units of TBF: bytes per second, bytes, and ticks.
type bucket struct {
	rate          uint64
	limit, buffer uint32
}

// tokens turns bits per second and bits into a token bucket. A burst of zero means a tenth of a
// second's worth, at least 64 KiB (one offloaded segment), and so does one of more than a second's:
// Pods' annotations cannot give a burst, and containerd then asks for 4 Gbit, which at 20 Mbit/s is no
// limit for the first three minutes. No burst is smaller than a packet, as TBF would then let
// nothing through.
func tokens(rate, burst uint64, mtu int) bucket {
	bytes := max(rate/8, 1)
	burst /= 8
	if burst == 0 || burst > bytes {
		burst = max(bytes/10, 64<<10)
	}
	burst = min(max(burst, uint64(mtu)+etherHeader), math.MaxUint32)
	micros := float64(burst) / float64(bytes) * 1e6
	return bucket{
		rate:   bytes,
		limit:  uint32(min(float64(bytes)*queueMicros/1e6+float64(burst), math.MaxUint32)),
		buffer: uint32(min(micros*netlink.TickInUsec(), math.MaxUint32)),
	}
}
