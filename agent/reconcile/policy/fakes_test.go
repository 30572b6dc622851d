//go:build linux

package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/policy"
	"github.com/weftnet/weftnet/agent/state"
)

// cluster is a source in memory.
type cluster struct {
	mu      sync.Mutex
	changed chan struct{}
	woken   []chan struct{}
	pods    map[snapshot.NamespacedName]snapshot.Pod
	next    source.Changes
	missing []string
	cut     []string
}

func newCluster() *cluster {
	c := &cluster{changed: make(chan struct{}, 1), pods: map[snapshot.NamespacedName]snapshot.Pod{}}
	c.next = fresh()
	return c
}

func fresh() source.Changes {
	return source.Changes{
		Pods: map[snapshot.NamespacedName]*snapshot.Pod{}, Namespaces: map[string]*snapshot.Namespace{}, Nodes: map[string]*snapshot.KubeNode{},
		NetworkPolicies:        map[snapshot.NamespacedName]*snapshot.NetworkPolicy{},
		ClusterNetworkPolicies: map[string]*snapshot.ClusterNetworkPolicy{},
	}
}

func (c *cluster) change(f func(*source.Changes)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.next)
	for k, p := range c.next.Pods {
		if delete(c.pods, k); p != nil {
			c.pods[k] = *p
		}
	}
	if c.next.Since.IsZero() {
		c.next.Since = time.Now()
	}
	signal(c.changed)
	for _, w := range c.woken {
		signal(w)
	}
}

func (c *cluster) setPods(pods ...snapshot.Pod) {
	c.change(func(n *source.Changes) {
		for _, p := range pods {
			n.Pods[p.Key()] = &p
		}
	})
}

func (c *cluster) setNamespace(ns snapshot.Namespace) {
	c.change(func(n *source.Changes) { n.Namespaces[ns.Name] = &ns })
}

func (c *cluster) setPolicy(p snapshot.NetworkPolicy) {
	c.change(func(n *source.Changes) { n.NetworkPolicies[p.Key()] = &p })
}

func (c *cluster) deletePolicy(p snapshot.NetworkPolicy) {
	c.change(func(n *source.Changes) { n.NetworkPolicies[p.Key()] = nil })
}

func (c *cluster) Take() source.Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.next
	out.Complete = len(c.missing) == 0
	c.next = fresh()
	return out
}

func (c *cluster) Changed() <-chan struct{} { return c.changed }

func (c *cluster) Missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.missing
}

func (c *cluster) Cut() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *cluster) setCut(cut ...string) {
	c.mu.Lock()
	c.cut = cut
	c.mu.Unlock()
	c.change(func(*source.Changes) {})
}

func (c *cluster) setMissing(missing ...string) {
	c.mu.Lock()
	c.missing = missing
	c.mu.Unlock()
	c.change(func(*source.Changes) {})
}

func (c *cluster) Pod(key snapshot.NamespacedName) (snapshot.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pods[key]
	return p, ok
}

func (c *cluster) PodAt(a netip.Addr) (snapshot.NamespacedName, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, p := range c.pods {
		if slices.Contains(p.IPs, a) {
			return k, true
		}
	}
	return snapshot.NamespacedName{}, false
}

func (c *cluster) Await(ctx context.Context, holds func() bool) bool {
	woken := make(chan struct{}, 1)
	c.mu.Lock()
	c.woken = append(c.woken, woken)
	c.mu.Unlock()
	for !holds() {
		select {
		case <-ctx.Done():
			return false
		case <-woken:
		}
	}
	return true
}

// plugin is the CNI server's list of attachments.
type plugin struct {
	mu      sync.Mutex
	list    []state.Attachment
	changed chan struct{}
}

func (p *plugin) standing() []state.Attachment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

func (p *plugin) add(a state.Attachment) {
	p.mu.Lock()
	p.list = append(p.list, a)
	p.mu.Unlock()
}

func (p *plugin) remove(link string) {
	p.mu.Lock()
	p.list = slices.DeleteFunc(p.list, func(a state.Attachment) bool { return a.HostLink == link })
	p.mu.Unlock()
	signal(p.changed)
}

// table is a table in memory of which a stranger can be heard.
type table struct {
	*nft.Fake
	events chan struct{}
	mu     sync.Mutex
	refuse func(state.Table) error
	patch  error // what patches are refused with
}

func (t *table) Subscribe(context.Context) (<-chan struct{}, error) { return t.events, nil }

func (t *table) Ensure(ctx context.Context, want state.Table) (nft.Change, error) {
	t.mu.Lock()
	refuse := t.refuse
	t.mu.Unlock()
	if refuse != nil {
		if err := refuse(want); err != nil {
			return nft.Change{}, err
		}
	}
	return t.Fake.Ensure(ctx, want)
}

func (t *table) Apply(ctx context.Context, c nft.Change) error {
	t.mu.Lock()
	refuse, fault := t.refuse, t.patch
	t.mu.Unlock()
	if fault != nil {
		return fault
	}
	if refuse != nil {
		return unix.EINVAL // whatever comes by patch has to be compared
	}
	return t.Fake.Apply(ctx, c)
}

func (t *table) refuseIf(f func(state.Table) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = f
}

func (t *table) refusePatches(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.patch = err
}

type noFlows struct{}

func (noFlows) Visit(context.Context, []netip.Addr, func([]conntrack.Tracked) error) error {
	return nil
}
func (noFlows) SetMark(context.Context, []conntrack.Tracked, uint32, uint32) (int, error) {
	return 0, nil
}

type counts struct {
	mu                    sync.Mutex
	programmed, drift     int
	cut, letGo            int
	admitted, unknownPods int
}

func (c *counts) do(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *counts) Programmed(time.Duration) { c.do(func() { c.programmed++ }) }
func (c *counts) Failed()                  {}
func (c *counts) DriftRepaired()           { c.do(func() { c.drift++ }) }
func (c *counts) Cut(n int)                { c.do(func() { c.cut += n }) }
func (c *counts) LetGo(n int)              { c.do(func() { c.letGo += n }) }
func (c *counts) Admitted(_ time.Duration, known bool) {
	c.do(func() {
		if c.admitted++; !known {
			c.unknownPods++
		}
	})
}

// world is a loop that runs on fakes.
type world struct {
	t       *testing.T
	cluster *cluster
	plugin  *plugin
	table   *table
	counts  *counts
	loop    *Loop
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, cluster: newCluster(), plugin: &plugin{changed: make(chan struct{}, 1)},
		table: &table{Fake: nft.NewFake(), events: make(chan struct{}, 1)}, counts: &counts{},
	}
	w.loop = New(Config{
		Source: w.cluster, Node: func() Node { return Node{Self: desired.Self{Name: "node1"}} },
		Attachments: w.plugin.standing, AttachmentsChanged: w.plugin.changed, Table: w.table, Flows: noFlows{},
		Log: slog.New(slog.DiscardHandler), Recorder: w.counts,
	})
	return w
}

func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { _ = w.loop.Run(ctx); close(done) }()
	w.t.Cleanup(func() { cancel(); <-done })
}

// until waits for what the loop does by itself.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			r, _ := w.loop.Report()
			have, _ := w.table.Table()
			w.t.Fatalf("waited for %s; report %+v, table %s", what, r, have)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Millisecond)
		<-ctx.Done()
		cancel()
	}
}

func webPod(name, ip string) snapshot.Pod {
	return snapshot.Pod{
		Namespace: "prod", Name: name, UID: "uid-" + name, Node: "node1",
		Labels: snapshot.Labels{{Key: "app", Value: "web"}}, IPs: []netip.Addr{netip.MustParseAddr(ip)},
	}
}

func attachment(p snapshot.Pod) state.Attachment {
	return state.Attachment{
		HostLink: state.PodLinkName(p.UID, "eth0"), ContainerID: p.UID, IfName: "eth0",
		Pod: state.PodRef{Namespace: p.Namespace, Name: p.Name, UID: p.UID}, Addresses: p.IPs,
	}
}

func denyAll(name string) snapshot.NetworkPolicy {
	return snapshot.NetworkPolicy{Namespace: "prod", Name: name, Types: []string{"Ingress"}}
}

// leads tells where packets to an attachment go in the table; empty means that nobody judges them.
func (w *world) leads(a state.Attachment) string {
	have, _ := w.table.Table()
	return leadsIn(have, a)
}

func leadsIn(t state.Table, a state.Attachment) string {
	s, _ := t.Set("ingress")
	for _, el := range s.Elements {
		if el.Key == state.Concat(state.IfNameValue(a.HostLink), state.NFProtoIPv4) {
			return el.Verdict.Chain
		}
	}
	return ""
}
