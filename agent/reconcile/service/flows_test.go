//go:build linux

package service

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/state"
)

func flow(dst, reply string) conntrack.Flow {
	src := netip.MustParseAddrPort("10.0.0.77:5000")
	return conntrack.Flow{
		Original: conntrack.Tuple{Src: src, Dst: netip.MustParseAddrPort(dst), Protocol: state.ProtoUDP},
		Reply:    conntrack.Tuple{Src: netip.MustParseAddrPort(reply), Dst: src, Protocol: state.ProtoUDP},
	}
}

// TestUDPFlowsFollow has flows to every kind of place, and changes the Service under them.
func TestUDPFlowsFollow(t *testing.T) {
	r := newRig(t)
	const vip = "10.96.0.1:80"
	other := flow("10.96.0.200:80", "10.0.0.1:8080") // of nobody we know
	direct := flow("10.0.0.1:8080", "10.0.0.1:8080")
	past := flow(vip, vip)
	first, second := flow(vip, "10.0.0.1:8080"), flow(vip, "10.0.0.2:8080")
	r.flows.list = []conntrack.Flow{other, direct, past, first, second}
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1")
	r.cluster.put(2, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	expect := func(what string, want ...conntrack.Flow) {
		t.Helper()
		r.eventually(what, func() bool {
			r.flows.mu.Lock()
			defer r.flows.mu.Unlock()
			return slices.Equal(r.flows.list, want)
		})
	}
	expect("at the start: what an earlier run did not come to", other, direct, first)
	looks := r.flows.looks
	r.cluster.put(2, state.ProtoTCP, "10.0.0.2")
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1", "10.0.0.2")
	r.settled("an endpoint more")
	if r.flows.looks != looks {
		t.Error("connection tracking was looked through though nothing can be stale")
	}
	r.flows.list = append(r.flows.list, second)
	r.cluster.put(1, state.ProtoUDP, "10.0.0.2")
	expect("an endpoint less", other, direct, second)
	r.cluster.put(1, state.ProtoUDP)
	expect("no endpoint left", other, direct)
	r.settled("no endpoint left")
	r.flows.list = append(r.flows.list, past)
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1")
	expect("an endpoint at last", other, direct)
	r.settled("an endpoint at last")
	r.flows.list = append(r.flows.list, first)
	r.cluster.drop(1)
	expect("the Service is gone", other, direct)
}

// TestUDPFlowsOfWhatStillAnswersStay: an endpoint that is about to end owes the answers to what it was
// asked, and a policy is about new flows. Both had their flows cut, and an answer under way was lost.
func TestUDPFlowsOfWhatStillAnswersStay(t *testing.T) {
	r := newRig(t)
	const vip = "10.96.0.1:80"
	first, second := flow(vip, "10.0.0.1:8080"), flow(vip, "10.0.0.2:8080")
	r.cluster.put(1, state.ProtoUDP, "10.0.0.1", "10.0.0.2")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	r.flows.set(first, second)
	looks := r.flows.looked()
	r.cluster.drain(1, "10.0.0.1")
	r.settled("one that ends")
	r.cluster.move(1, "node2")
	r.cluster.local(1)
	r.settled("policy Local, and both elsewhere")
	if got := r.flows.all(); !slices.Equal(got, []conntrack.Flow{first, second}) || r.flows.looked() != looks {
		t.Errorf("flows %v, looked through %d times; both shall stay, unseen", got, r.flows.looked()-looks)
	}
	r.cluster.put(1, state.ProtoUDP, "10.0.0.2")
	r.eventually("the flow of the one that has ended to go", func() bool { return slices.Equal(r.flows.all(), []conntrack.Flow{second}) })
}

// TestAttemptsThatWentPastTheTable: connections that were begun while there were no rules, and that nobody has
// answered, are forgotten when the rules are there, and when somebody else had taken them away; all others stay.
func TestAttemptsThatWentPastTheTable(t *testing.T) {
	r := newRig(t)
	tcp := func(dst, reply string) conntrack.Flow {
		f := flow(dst, reply)
		f.Original.Protocol, f.Reply.Protocol = state.ProtoTCP, state.ProtoTCP
		return f
	}
	const vip = "10.96.0.1:80"
	past, kept := tcp(vip, vip), []conntrack.Flow{tcp(vip, "10.0.0.1:8080"), tcp("10.96.0.1:81", "10.96.0.1:81"), tcp("10.0.0.1:80", "10.0.0.1:80")}
	r.flows.set(append(kept, past)...)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	r.cluster.sync()
	r.start()
	r.settled("at the start")
	expect := func(what string, want ...conntrack.Flow) {
		t.Helper()
		r.eventually(what, func() bool { return slices.Equal(r.flows.all(), want) })
	}
	expect("at the start", kept...)
	if n := r.counts.get(func(c *counts) int { return c.flows }); n != 1 {
		t.Errorf("%d flows are counted as deleted, want 1", n)
	}
	looks := r.flows.looked()
	r.flows.set(append(kept, past)...)
	r.cluster.put(1, state.ProtoTCP, "10.0.0.2")
	r.settled("an ordinary change")
	if r.flows.looked() != looks {
		t.Error("connection tracking was looked through though the rules were there all the time")
	}
	if err := r.fake.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.events <- struct{}{}
	expect("the table was taken away", kept...)
	r.settled("the table was taken away")
	r.flows.set(append(kept, past)...)
	if err := r.fake.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.cluster.put(1, state.ProtoTCP, "10.0.0.1")
	expect("it was put back by a change that came before the event", kept...)
}
