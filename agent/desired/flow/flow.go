// Package flow decides which Pods of this node take part in the fast path between them, on which the
// packets of established connections pass neither routing nor rules. It is pure.
package flow

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// Input is all that the plan depends on. Order does not matter.
type Input struct {
	// Attachments whose ADD was answered and whose DEL has not come.
	Attachments []state.Attachment
	Links       []state.FlowLink
}

// Output is what the kernel should have.
type Output struct {
	// Links that lead into the fast path, by the kernel's numbers, sorted.
	Links []int
	// Pods that it leads to, and whose packets it takes, sorted.
	Pods []state.FlowPod
}

// Plan computes the wanted state. A Pod with limits of bandwidth stays out, since what limits it is
// passed by on the fast path, and so does one of which nobody wrote down whether it has any, and one
// whose link somebody else's traffic control works on, or which has no place for the program.
func Plan(in Input) Output {
	links := make(map[string]state.FlowLink, len(in.Links))
	for _, l := range in.Links {
		links[l.Name] = l
	}
	claims := map[netip.Addr]int{}
	for _, a := range in.Attachments {
		for _, ip := range a.Addresses {
			claims[ip.Unmap()]++
		}
	}
	var out Output
	for _, a := range in.Attachments {
		l, there := links[a.HostLink]
		if !there || !l.Place || l.Queued || a.ContainerID == "" || a.Bandwidth != (state.Bandwidth{}) {
			continue
		}
		var own []state.FlowPod
		for _, ip := range a.Addresses {
			if ip = ip.Unmap(); claims[ip] == 1 {
				own = append(own, state.FlowPod{Addr: ip, Link: a.HostLink, Index: l.Index, MTU: min(l.MTU, cmp.Or(a.MTU, l.MTU))})
			}
		}
		if len(own) > 0 {
			out.Links, out.Pods = append(out.Links, l.Index), append(out.Pods, own...)
		}
	}
	slices.Sort(out.Links)
	out.Links = slices.Compact(out.Links)
	slices.SortFunc(out.Pods, state.FlowPod.Compare)
	return out
}

// Tracking is how connection tracking is set.
type Tracking struct {
	// Established, UDP and UDPStream are how long an entry stays without a packet: of a TCP connection,
	// of a new exchange over UDP, and of one that has been going on.
	Established, UDP, UDPStream time.Duration
	// Liberal says that TCP packets outside the window are taken for the connection's.
	Liberal bool
}

// echoesFor is how long an echo's way through the rules holds for those like it. An exchange that goes on is judged and
// counted once in that time, which is what becomes of a change of rules that nobody tells the fast path of.
const echoesFor = time.Second

// FreshFor is half of the whole time, so that one packet in that time takes the ordinary way and renews
// it. Connection tracking does not see the sequence numbers of what takes the fast path: unless it is
// liberal, it would take the packets that come back to it for invalid. The program itself sees to it that what connection
// tracking has of an echo outlives echoesFor.
func FreshFor(t Tracking) state.FlowFresh {
	f := state.FlowFresh{UDP: t.UDP / 2, UDPStream: t.UDPStream / 2, Echo: echoesFor}
	if t.Liberal {
		f.TCP = t.Established / 2
	}
	return f
}
