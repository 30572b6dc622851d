//go:build e2e && rolling

package service

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/test/requester"
)

// rollPatience with one request leaves room for a SYN sent again twice, so a lost packet need not make
// a request fail: the segments sent again and the longest request are told besides.
const rollPatience = 10 * time.Second

// requests come from one process for each place.
type requests struct {
	places    []string
	processes map[string]*requester.Process
	ledger    *podLedger
	before    machine

	mu       sync.Mutex
	failures []failure
	looked   time.Time
	flows    []conntrack.Flow
}

// failure with its origin.
type failure struct {
	requester.Failure
	place string
	// server is the Pod that connection tracking knew behind the connection, with its age and what it was
	// doing; empty if it knew none.
	server string
}

// startRequests spreads perSecond requests over the aims.
func startRequests(t *testing.T, perSecond int, aims []aim) *requests {
	t.Helper()
	r := &requests{processes: map[string]*requester.Process{}, ledger: watchPods(t), before: lookAtMachine(t)}
	to, from := map[string][]netip.AddrPort{}, map[string]place{}
	for _, a := range aims {
		to[a.from.name], from[a.from.name] = append(to[a.from.name], a.to), a.from
	}
	r.places = slices.Sorted(maps.Keys(to))
	for _, name := range r.places {
		p := from[name]
		at := requester.Place{Namespace: p.ns, Cgroup: p.cgroup, Failed: func(f requester.Failure) { r.note(name, f) }}
		r.processes[name] = requester.Start(t, at, requester.Order{
			To: to[name], PerSecond: float64(perSecond*len(to[name])) / float64(len(aims)), Path: "/hostname", Patience: rollPatience,
		})
	}
	return r
}

// note keeps a failure, and finds who should have answered while connection tracking knows.
func (r *requests) note(name string, f requester.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.looked) > time.Second {
		r.flows, r.looked = allFlows(), time.Now()
	}
	noted := failure{Failure: f, place: name}
	for _, flow := range r.flows {
		// Balanced at the socket it goes to the Pod; the same source may have another flow, to another address of a node.
		direct := flow.Original.Dst == flow.Reply.Src
		if f.From.IsValid() && flow.Original.Src == f.From && (direct || flow.Original.Dst == f.To) && flow.Reply.Src.Port() == podTCP {
			noted.server = r.ledger.what(flow.Reply.Src.Addr(), f.At)
		}
	}
	r.failures = append(r.failures, noted)
}

// end stops the requests and requires that none has failed, and that there were as many as wanted.
func (r *requests) end(t *testing.T, perSecond int, lasted time.Duration) {
	t.Helper()
	made := 0
	for _, p := range r.processes {
		p.Stop()
	}
	for _, name := range r.places {
		report, err := r.processes[name].End()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		made += report.Made
		t.Logf("%s: %d requests, p50 %s, p99 %s, longest %s; %d segments sent again; begun up to %s late", name, report.Made,
			report.Typical, report.Rare, report.Longest.Round(time.Millisecond), report.Retransmits, report.Late.Round(time.Millisecond))
	}
	t.Logf("%d requests in %s, %d failed", made, lasted.Round(time.Second), len(r.failures))
	for _, line := range r.before.until(lookAtMachine(t)) {
		t.Log(line)
	}
	if want := int(lasted.Seconds() * float64(perSecond) * 0.95); made < want {
		t.Errorf("only %d requests were made, want at least %d: the test proves little", made, want)
	}
	if len(r.failures) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(r.failures), made, strings.Join(r.origins(), "\n"))
	}
}

// origins counts the failures by each thing that tells something, and lists them.
func (r *requests) origins() []string {
	var out []string
	for _, by := range []struct {
		name string
		of   func(failure) string
	}{
		{"cause", func(f failure) string { return f.Cause() }},
		{"client", func(f failure) string { return f.place }},
		{"address", func(f failure) string { return f.To.String() }},
		{"server", func(f failure) string { return f.server }},
		{"second", func(f failure) string { return f.At.Format("15:04:05") }},
	} {
		counts := map[string]int{}
		for _, f := range r.failures {
			counts[by.of(f)]++
		}
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			out = append(out, fmt.Sprintf("%6d by %s: %s", counts[what], by.name, what))
		}
	}
	slices.SortFunc(r.failures, func(a, b failure) int { return a.At.Compare(b.At) })
	for _, f := range r.failures {
		out = append(out, fmt.Sprintf("%s; from %s; server %s", f.Failure, f.place, f.server))
	}
	return out
}

// machine is what tells whether packets were dropped or processors were short.
type machine struct {
	when time.Time
	// stalled is for how long some program waited for a processor.
	stalled time.Duration
	load    string
	// counters of the kernel, by node and name.
	counters map[string]uint64
}

// telling are the kernel's counters of TCP that tell of loss and of full queues.
var telling = []string{"ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPTimeouts", "TCPSynRetrans", "TCPAbortOnTimeout", "TCPAbortOnData"}

func lookAtMachine(t *testing.T) machine {
	t.Helper()
	m := machine{when: time.Now(), counters: map[string]uint64{}}
	if text, err := os.ReadFile("/proc/pressure/cpu"); err == nil {
		var ten, minute, five float64
		var total int64
		if _, err := fmt.Sscanf(string(text), "some avg10=%f avg60=%f avg300=%f total=%d", &ten, &minute, &five, &total); err == nil {
			m.stalled = time.Duration(total) * time.Microsecond
		}
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load = strings.TrimSpace(string(text))
	}
	for i, host := range probes.Hosts {
		inNamespaceOf(host.Spec.NodeName, func() { addNetstat(m.counters, host.Spec.NodeName) })
		for _, table := range []string{"weftnet", "weftnet-service", "weftnet-policy"} {
			if out, err := onNode(t, i, "nft", "list", "counters", "table", "inet", table); err == nil {
				addNftCounters(m.counters, host.Spec.NodeName+" "+table, out)
			}
		}
	}
	return m
}

// addNetstat reads /proc/net/netstat of the calling thread's namespace: lines of names, each with one of values.
func addNetstat(into map[string]uint64, node string) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := range min(len(names), len(values)) {
			var v uint64
			if _, err := fmt.Sscan(values[j], &v); err == nil && slices.Contains(telling, names[j]) {
				into[node+" "+names[j]] = v
			}
		}
	}
}

// addNftCounters reads named counters as nft prints them: "counter NAME {", then "packets N bytes N".
func addNftCounters(into map[string]uint64, where, text string) {
	words := strings.Fields(text)
	for i := range words {
		if words[i] == "counter" && i+4 < len(words) && words[i+3] == "packets" {
			var v uint64
			if _, err := fmt.Sscan(words[i+4], &v); err == nil {
				into[where+" "+words[i+1]] = v
			}
		}
	}
}

// until tells what has changed.
func (m machine) until(now machine) []string {
	lasted := now.when.Sub(m.when)
	out := []string{fmt.Sprintf("some program waited for a processor in %.0f %% of the time; load %s, then %s",
		100*(now.stalled-m.stalled).Seconds()/lasted.Seconds(), m.load, now.load)}
	for _, name := range slices.Sorted(maps.Keys(now.counters)) {
		if grown := now.counters[name] - m.counters[name]; grown > 0 {
			out = append(out, fmt.Sprintf("%s grew by %d", name, grown))
		}
	}
	return out
}
