package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// Config says what to watch.
type Config struct {
	// Node is the name of this node: of others' Pods only those with an address matter.
	Node string
	REST *rest.Config
	Log  *slog.Logger
	// Now is the time; nil means time.Now.
	Now func() time.Time
}

// Source follows the objects.
type Source struct {
	cfg        Config
	pods       kind[snapshot.NamespacedName, snapshot.Pod]
	namespaces kind[string, snapshot.Namespace]
	nodes      kind[string, snapshot.KubeNode]
	policies   kind[snapshot.NamespacedName, snapshot.NetworkPolicy]
	cluster    kind[string, snapshot.ClusterNetworkPolicy]
	// crds has the one CRD by which it is known whether there are ClusterNetworkPolicies.
	crds    kind[string, struct{}]
	watches []watch
	changed chan struct{}

	mu sync.Mutex
	// waiting are told when something changes, see Await.
	waiting map[chan struct{}]struct{}
}

// Changes are what has changed since the last Take, by key; nil is what is gone.
type Changes struct {
	Pods                   map[snapshot.NamespacedName]*snapshot.Pod
	Namespaces             map[string]*snapshot.Namespace
	Nodes                  map[string]*snapshot.KubeNode
	NetworkPolicies        map[snapshot.NamespacedName]*snapshot.NetworkPolicy
	ClusterNetworkPolicies map[string]*snapshot.ClusterNetworkPolicy
	// Complete says that every list has been read. Nothing may be opened or taken away before that.
	Complete bool
	// Since is when the oldest of the changes was heard of; zero when there is none.
	Since time.Time
}

// Empty tells whether nothing has changed.
func (c Changes) Empty() bool { return c.Since.IsZero() }

// New prepares the watches. It does not talk to the API server.
func New(cfg Config) (*Source, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Source{cfg: cfg, changed: make(chan struct{}, 1), waiting: map[chan struct{}]struct{}{}}
	s.readers()
	var err error
	s.watches, err = s.watchesOf(cfg.REST)
	return s, err
}

// Changed is signalled when Take has news; signals that nobody has taken merge into one.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Complete tells whether every list has been read from the API server.
func (s *Source) Complete() bool {
	return s.pods.complete() && s.namespaces.complete() && s.nodes.complete() && s.policies.complete() && s.clusterComplete()
}

// clusterComplete : without the CRD there is nothing to read.
func (s *Source) clusterComplete() bool {
	if !s.crds.complete() {
		return false
	}
	_, installed := s.crds.get(crdName)
	return !installed || s.cluster.complete()
}

// Missing names what has not been read yet, for people.
func (s *Source) Missing() []string {
	var out []string
	for _, k := range []struct {
		name     string
		complete bool
	}{
		{"Pods", s.pods.complete()}, {"Namespaces", s.namespaces.complete()}, {"Nodes", s.nodes.complete()},
		{"NetworkPolicies", s.policies.complete()}, {"ClusterNetworkPolicies", s.clusterComplete()},
	} {
		if !k.complete {
			out = append(out, k.name)
		}
	}
	return out
}

// Cut names the kinds of which no news comes in at the moment, though it did: what is known of them may
// be older than what others know.
func (s *Source) Cut() []string {
	var out []string
	for _, k := range []struct {
		name string
		cut  bool
	}{
		{"Pods", s.pods.line.cut()}, {"Namespaces", s.namespaces.line.cut()}, {"Nodes", s.nodes.line.cut()},
		{"NetworkPolicies", s.policies.line.cut()}, {"ClusterNetworkPolicies", s.clusterCut()},
	} {
		if k.cut {
			out = append(out, k.name)
		}
	}
	return out
}

func (s *Source) clusterCut() bool {
	_, installed := s.crds.get(crdName)
	return installed && s.cluster.line.cut()
}

// Take gives what has changed since it was called last.
func (s *Source) Take() Changes {
	// Asked first: what is read in between is then in the changes or comes with the next ones.
	out := Changes{Complete: s.Complete()}
	var since [5]time.Time
	out.Pods, since[0] = s.pods.take()
	out.Namespaces, since[1] = s.namespaces.take()
	out.Nodes, since[2] = s.nodes.take()
	out.NetworkPolicies, since[3] = s.policies.take()
	out.ClusterNetworkPolicies, since[4] = s.cluster.take()
	for _, t := range since {
		if !t.IsZero() && (out.Since.IsZero() || t.Before(out.Since)) {
			out.Since = t
		}
	}
	return out
}

// Pod tells what is known of a Pod.
func (s *Source) Pod(key snapshot.NamespacedName) (snapshot.Pod, bool) { return s.pods.get(key) }

// PodAt finds the Pod of this node with an address. It looks at every Pod, and is for the few whose
// names nobody wrote down.
func (s *Source) PodAt(a netip.Addr) (snapshot.NamespacedName, bool) {
	return s.pods.find(func(p snapshot.Pod) bool { return p.Node == s.cfg.Node && slices.Contains(p.IPs, a) })
}

// Await waits until the condition holds or the context ends, and looks whenever something changes.
func (s *Source) Await(ctx context.Context, holds func() bool) bool {
	woken := make(chan struct{}, 1)
	s.mu.Lock()
	s.waiting[woken] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, woken)
		s.mu.Unlock()
	}()
	for !holds() {
		select {
		case <-ctx.Done():
			return false
		case <-woken:
		}
	}
	return true
}

func (s *Source) wake() {
	signal(s.changed)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiting {
		signal(c)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
