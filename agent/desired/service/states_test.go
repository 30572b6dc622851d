//go:build linux

package service_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// states are named states of a cluster's Services, each a step that happens.
func states() map[string][]object {
	other := func(change ...func(*object)) object {
		o := web(change...)
		o.Name, o.Created = "other", o.Created.Add(time.Hour)
		o.ClusterIPs = addrs("10.96.0.20", "fd00:96::20")
		return o
	}
	three := endpoints(at("10.244.1.5", "node1"), at("10.244.2.5", "node2"), at("10.244.3.5", "node3"))
	var forty []snapshot.Endpoint
	for host := range 40 {
		forty = append(forty, at(fmt.Sprint("10.244.2.", 10+host), "node2"))
	}
	return map[string][]object{
		"00 nothing":       nil,
		"01 one":           {web()},
		"02 two":           {web(), other()},
		"03 scaled up":     {web(three), other()},
		"04 one claims":    {web(three, externalIPs), other()},
		"05 both claim":    {web(three, externalIPs), other(externalIPs)},
		"06 other has it":  {web(three), other(externalIPs)},
		"07 node port":     {web(three, nodePort), other(loadBalancer)},
		"08 policy Local":  {web(three, nodePort, externalLocal), other(loadBalancer, externalLocal)},
		"09 ranges":        {web(nodePort), other(loadBalancer, externalLocal, ranges("10.0.0.0/8", "2001:db8:9::/48"))},
		"10 other ranges":  {web(nodePort), other(loadBalancer, ranges("10.0.0.0/9", "192.0.2.0/24"))},
		"11 affinity":      {web(affinity(time.Minute)), other(affinity(3*time.Hour), nodePort)},
		"12 other timeout": {web(affinity(time.Hour), endpoints(forty...)), other(affinity(3*time.Hour), three)},
		"13 many":          {web(endpoints(forty...), nodePort)},
		"14 one less":      {web(endpoints(forty[1:]...), nodePort)},
		"15 none ready":    {web(endpoints(), nodePort, externalIPs), other(endpoints())},
		"16 udp":           {web(udp), other(sctp)},
		"17 one family":    {web(func(o *object) { o.ClusterIPs = o.ClusterIPs[:1] }), other(func(o *object) { o.ClusterIPs = o.ClusterIPs[1:] })},
	}
}

// proxy is what the agent does with Services, in short.
type proxy struct {
	t        *testing.T
	ledger   *nft.Ledger
	claims   *service.Claims
	now      map[snapshot.ServiceName]object
	timeouts []time.Duration
}

// become goes to a state, with all Services at once or one by one.
func (p *proxy) become(objects []object, atOnce bool) {
	p.t.Helper()
	next := map[snapshot.ServiceName]object{}
	for _, o := range objects {
		next[o.ServiceName] = o
	}
	names := maps.Clone(next)
	maps.Copy(names, p.now)
	changed := slices.SortedFunc(maps.Keys(names), snapshot.ServiceName.Compare)
	if atOnce {
		p.now = next
		p.write(changed)
		return
	}
	for _, name := range changed {
		if o, ok := next[name]; ok {
			p.now[name] = o
		} else {
			delete(p.now, name)
		}
		p.write([]snapshot.ServiceName{name})
	}
}

func (p *proxy) write(names []snapshot.ServiceName) {
	p.t.Helper()
	for len(names) > 0 {
		var more []snapshot.ServiceName
		for _, name := range names {
			if o, ok := p.now[name]; ok {
				more = append(more, p.claims.Set(o.wanted())...)
			} else {
				more = append(more, p.claims.Delete(name)...)
			}
		}
		var puts []nft.Wanted
		for _, name := range names {
			w := service.Wanted{Service: name}
			if o, ok := p.now[name]; ok {
				w = p.claims.Settle(o.wanted())
			}
			p.timeouts = append(p.timeouts, w.Timeouts()...)
			puts = append(puts, nft.Wanted{Owner: name.String(), Age: w.Created.Unix(), Sets: w.Sets()})
		}
		if _, err := p.ledger.Frame(p.t.Context(), service.Table(here(), p.timeouts)); err != nil {
			p.t.Fatal(err)
		}
		out, err := p.ledger.Put(p.t.Context(), puts)
		if err != nil || len(out.Refused) > 0 {
			p.t.Fatal(err, out.Refused)
		}
		names = more
	}
}

// TestSequencesOfStates goes through the states forward and backward, with all of a step at once and
// one by one, from each to nothing and back, and straight from each to a far one. Behind every step the
// table holds what the state wants, and nothing else.
func TestSequencesOfStates(t *testing.T) {
	all := states()
	forward := slices.Sorted(maps.Keys(all))
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	var withNothing, far []string
	for i, name := range forward {
		withNothing = append(withNothing, name, "00 nothing")
		far = append(far, name, forward[(i*7+5)%len(forward)])
	}
	for name, order := range map[string][]string{"forward": forward, "backward": backward, "with nothing between": withNothing, "far": far} {
		for _, atOnce := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, at once %v", name, atOnce), func(t *testing.T) {
				walkThrough(t, nft.NewFake(), all, order, atOnce)
			})
		}
	}
}

func walkThrough(t *testing.T, table nft.Table, all map[string][]object, order []string, atOnce bool) {
	t.Helper()
	p := &proxy{t: t, ledger: nft.NewLedger(table), claims: service.NewClaims(), now: map[snapshot.ServiceName]object{}}
	p.write(nil)
	if _, err := p.ledger.Frame(t.Context(), service.Table(here(), nil)); err != nil {
		t.Fatal(err)
	}
	for i, name := range order {
		p.become(all[name], atOnce)
		want := tableOf(all[name]...)
		want.Chains, want.Sets = nil, slices.Clone(want.Sets)
		full := service.Table(here(), p.timeouts)
		for n, s := range full.Sets {
			if w, ok := want.Set(s.Name); ok && len(w.Elements) > len(s.Elements) {
				full.Sets[n].Elements = w.Elements
			}
		}
		have, err := table.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := nft.Diff(have, full); !diff.Empty() {
			t.Fatalf("step %d, %s: what is there has to become what is wanted by %s", i, name, diff)
		}
	}
}
