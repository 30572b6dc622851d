package policy_test

import (
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

// rounds is how often a property is tried; WEFTNET_POLICY_ROUNDS multiplies it.
func rounds(n int) int {
	if more, err := strconv.Atoi(os.Getenv("WEFTNET_POLICY_ROUNDS")); err == nil {
		return n * more
	}
	return n
}

// machine is this node with the compiled rules.
func (w *world) machine(table state.Table) *nfsim.Machine {
	m := nfsim.New(nfsim.World{Quiet: true, Local: w.self.IPs, Route: func(a netip.Addr) (string, netip.Addr) {
		if link := w.linkOf(a); link != "" {
			return link, netip.Addr{}
		}
		return "weft0", netip.Addr{}
	}})
	m.Load(table)
	return m
}

// send lets the packet come from where its source is, as the first of a flow.
func (w *world) send(m *nfsim.Machine, pkt policy.Packet) nfsim.Result {
	const sourcePort = 40000
	p := nfsim.Packet{Proto: pkt.Protocol, Src: netip.AddrPortFrom(pkt.Src, 0), Dst: netip.AddrPortFrom(pkt.Dst, pkt.Port)}
	if pkt.Port != 0 {
		p.Src = netip.AddrPortFrom(pkt.Src, sourcePort)
	} else {
		p.ICMPType = 128 // an echo request of IPv6, nothing in particular of IPv4
	}
	m.Forget(func(*nfsim.Flow) bool { return true })
	if slices.Contains(w.self.IPs, pkt.Src) {
		return m.Send(p)
	}
	link := w.linkOf(pkt.Src)
	if link == "" {
		link = "weft0"
	}
	return m.Receive(p.From(link))
}

// expected is what the evaluator says of the ends that are on this node.
func (w *world) expected(e *policy.Engine, pkt policy.Packet) (denied []policy.Reason, audit []policy.Reason) {
	if slices.Contains(w.self.IPs, pkt.Src) {
		return nil, nil
	}
	x := e.Explain(pkt)
	if w.linkOf(pkt.Src) != "" {
		audit = append(audit, x.Egress.Audit...)
		if x.Egress.Verdict == policy.Deny {
			return []policy.Reason{x.Egress.Reason}, audit
		}
	}
	if w.linkOf(pkt.Dst) != "" {
		audit = append(audit, x.Ingress.Audit...)
		if x.Ingress.Verdict == policy.Deny {
			return []policy.Reason{x.Ingress.Reason}, audit
		}
	}
	return nil, audit
}

// counters are the counters of the places that denied, or would have, for the reasons.
func counters(e *policy.Engine, reasons []policy.Reason, audit bool) []string {
	out := []string{}
	for _, r := range reasons {
		name := "none for " + r.String()
		for _, s := range e.Sites() {
			if s.Audit == audit && s.Direction == r.Direction && s.Tier == r.Tier && s.Rule == r.Rule && slices.Equal(s.Policies, r.Policies) {
				name = s.Counter()
			}
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// TestRulesMeanWhatTheEvaluatorSays sends random packets through the compiled rules of random worlds:
// what the evaluator denies is dropped, by the place that it names, and what audit mode reports is counted.
func TestRulesMeanWhatTheEvaluatorSays(t *testing.T) {
	denied, passed, segmented := 0, 0, 0
	for seed := range uint64(rounds(200)) {
		w := newWorld(seed)
		e := w.engine()
		table := e.Table()
		if strings.Contains(table.String(), "jump out4-part-") {
			segmented++
		}
		m := w.machine(table)
		for range 250 {
			pkt := w.packet()
			reasons, audit := w.expected(e, pkt)
			before := counts(m, table)
			res := w.send(m, pkt)
			got := res.Fate != nfsim.Dropped && res.Fate != nfsim.Refused
			if got && res.Packet.Mark != 0 {
				t.Fatalf("seed %d: %+v keeps the mark %#x", seed, pkt, res.Packet.Mark)
			}
			if got != (len(reasons) == 0) {
				t.Fatalf("seed %d: %+v is %s, but the evaluator says %v\n%s", seed, pkt, res, reasons, table)
			}
			want := append(counters(e, reasons, false), counters(e, audit, true)...)
			if have := counted(before, counts(m, table)); !slices.Equal(have, slices.Sorted(slices.Values(want))) {
				t.Fatalf("seed %d: %+v counts in %v, want %v\n%s", seed, pkt, have, want, table)
			}
			if got {
				passed++
			} else {
				denied++
			}
		}
	}
	t.Logf("%d packets denied, %d passed; %d worlds with parts", denied, passed, segmented)
	if denied < passed/20 || passed < denied/20 || segmented == 0 {
		t.Error("the worlds are too dull")
	}
}

func counts(m *nfsim.Machine, table state.Table) map[string]int {
	out := map[string]int{}
	for _, c := range table.Counters {
		out[c] = m.Count(table.Name, c)
	}
	return out
}

// counted are the counters that went up, as often as they did.
func counted(before, after map[string]int) []string {
	var out []string
	for name, n := range after {
		for range n - before[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// changeOf is a patch as the kernel package takes it.
func changeOf(p policy.Patch) nft.Change {
	c := nft.Change{
		Family: "inet", Name: policy.TableName, Create: p.Create, Flush: p.DelChains, DelSets: p.DelSets, DelChains: p.DelChains,
		DelCounters: p.DelCounters, Counters: p.AddCounters, Chains: p.AddChains, Rules: p.AddChains, Sets: p.AddSets,
	}
	for _, s := range p.AddSets {
		c.Elements = append(c.Elements, nft.ElementChange{Set: s, Add: s.Elements})
	}
	for _, d := range p.Deltas {
		c.Elements = append(c.Elements, nft.ElementChange{Set: d.Set, Delete: d.Delete, Add: d.Add})
	}
	return c
}

// TestIncrementalIsFromScratch changes worlds step by step. After each patch the table is the one
// that an engine makes which never knew another world.
func TestIncrementalIsFromScratch(t *testing.T) {
	for seed := range uint64(rounds(20)) {
		w := newWorld(seed)
		e := w.engine()
		fake := nft.NewFake()
		for step := range 25 {
			for range 1 + w.r.IntN(3) {
				w.step(e)
				if w.oneIn(3) { // which must not lose what is due
					if got, want := e.Table(), w.engine().Table(); !got.Equal(want) {
						t.Fatalf("seed %d, step %d: the table differs:\n%s", seed, step, lineDiff(got.String(), want.String()))
					}
				}
			}
			c := changeOf(e.Commit())
			if err := fake.Apply(t.Context(), c); err != nil {
				t.Fatalf("seed %d, step %d: %v\n%s", seed, step, err, c)
			}
			have, _ := fake.Table()
			want := w.engine().Table()
			if !have.Equal(want) {
				t.Fatalf("seed %d, step %d: after\n%s\nthe table differs:\n%s", seed, step, c, lineDiff(have.String(), want.String()))
			}
			if got := e.Table(); !got.Equal(want) {
				t.Fatalf("seed %d, step %d: the engine's own table differs:\n%s", seed, step, lineDiff(got.String(), want.String()))
			}
		}
		if p := e.Commit(); !p.Empty() {
			t.Fatalf("seed %d: a second commit changes something: %s", seed, changeOf(p))
		}
	}
}

func lineDiff(have, want string) string {
	h, w := lineCounts(have), lineCounts(want)
	var out []string
	for line, n := range h {
		if n > w[line] {
			out = append(out, "+ "+line)
		}
	}
	for line, n := range w {
		if n > h[line] {
			out = append(out, "- "+line)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func lineCounts(s string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(s) {
		out[strings.TrimSpace(line)]++
	}
	return out
}

// TestForgettingAllLeavesNothing takes everything away again: no chain, set or index stays.
func TestForgettingAllLeavesNothing(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(seed)
		e := w.engine()
		e.Commit()
		for _, key := range slices.Collect(maps.Keys(w.pods)) {
			e.DeletePod(key)
		}
		for _, key := range slices.Collect(maps.Keys(w.policies)) {
			e.DeleteNetworkPolicy(key)
		}
		e.Commit()
		for link := range w.endpoints {
			e.Detach(link)
		}
		for name := range w.cluster {
			e.DeleteClusterNetworkPolicy(name)
		}
		for name := range w.namespaces {
			e.DeleteNamespace(name)
		}
		for name := range w.nodes {
			e.DeleteNode(name)
		}
		e.Commit()
		if s := e.Stats(); s != (policy.Stats{}) || len(e.Sites()) > 0 {
			t.Fatalf("seed %d: left are %+v, %v", seed, s, e.Sites())
		}
	}
}

// TestSuspectsAreEnough compares, after each change, the flows that are revoked among the suspects with
// those among all: of flows that were allowed before, none may be missed.
func TestSuspectsAreEnough(t *testing.T) {
	revoked := 0
	for seed := range uint64(rounds(30)) {
		w := newWorld(seed)
		e := w.engine()
		e.Commit()
		for range 25 {
			var flows []policy.Flow
			for range 100 {
				flows = append(flows, flowOf(w.packet()))
			}
			gone := e.Revoked(flows, policy.Suspects{All: true})
			if both := len(gone) + len(e.Restored(flows, policy.Suspects{All: true})); both != len(flows) {
				t.Fatalf("seed %d: %d of %d flows are judged", seed, both, len(flows))
			}
			for _, i := range slices.Backward(gone) {
				flows = slices.Delete(flows, i, i+1)
			}
			w.step(e)
			p := e.Commit()
			all, few := e.Revoked(flows, policy.Suspects{All: true}), e.Revoked(flows, p.Suspects)
			if !slices.Equal(all, few) {
				t.Fatalf("seed %d: revoked are %v, among the suspects %v", seed, all, few)
			}
			revoked += len(all)
		}
	}
	if revoked == 0 {
		t.Error("no flow was ever revoked")
	}
	t.Logf("%d flows revoked", revoked)
}

// flowOf is a flow that a packet began, through a Service and a masquerade that policies do not see.
func flowOf(p policy.Packet) policy.Flow {
	a := netip.AddrPortFrom
	return policy.Flow{
		Protocol: p.Protocol, Src: a(p.Src, 40000), Dst: a(netip.MustParseAddr("10.96.0.1"), 80),
		ReplySrc: a(p.Dst, p.Port), ReplyDst: a(netip.MustParseAddr("10.244.1.1"), 50000),
	}
}
