package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// FlowPod is an address of a Pod whose established connections to other Pods of its node may go the
// fast path.
type FlowPod struct {
	Addr netip.Addr
	// Link is the host end of the Pod's link, by its name and the kernel's number for it.
	Link  string
	Index int
	// MTU is the size of the largest packet that the Pod takes, in bytes.
	MTU int
}

// Compare orders by address.
func (p FlowPod) Compare(o FlowPod) int {
	return cmp.Or(p.Addr.Compare(o.Addr), cmp.Compare(p.Link, o.Link), cmp.Compare(p.Index, o.Index), cmp.Compare(p.MTU, o.MTU))
}

// String is one line for logs.
func (p FlowPod) String() string {
	return fmt.Sprintf("%s dev %s(%d) mtu %d", p.Addr, p.Link, p.Index, p.MTU)
}

// FlowLink is the host end of a Pod's link, as the kernel has it.
type FlowLink struct {
	Name  string
	Index int
	MTU   int
	// Place says that it has a qdisc for programs (clsact). It comes with the link: added to one that is up,
	// it would cost packets.
	Place bool
	// Queued says that somebody queues, shapes or filters what goes through it by traffic control.
	Queued bool
}

// FlowFresh is how much of its time an entry of connection tracking must have left for the packets of
// its connection to take the fast path; zero where none may.
type FlowFresh struct {
	// TCP is that of established connections, UDP of exchanges in both directions, UDPStream of those
	// that have been going on for a while.
	TCP, UDP, UDPStream time.Duration
	// Echo is for how long echoes of ICMP take the fast path after one like it has passed the rules.
	Echo time.Duration
}
