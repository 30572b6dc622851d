// Package source watches the Kubernetes API and turns what it says into snapshots: plain, immutable
// values that know whether they are complete. It is the only way in: nothing downstream knows the
// API. While the API server is away the last snapshot stays; before it was ever reached, the one
// from the disk serves, marked partial.
package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	clientcache "k8s.io/client-go/tools/cache"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// settle is how long changes are gathered before a snapshot is made of them.
const settle = 5 * time.Millisecond

// saveAgain is how soon a cache that could not be written is tried again.
const saveAgain = 10 * time.Second

// retry of a list or watch that failed. The default of client-go waits up to a minute, which is
// long for a node that has just lost its peers' news.
func retry() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 5 * time.Second}
}

// Config says what to watch.
type Config struct {
	// Node is the name of this node.
	Node string
	REST *rest.Config
	// Cache keeps the last complete snapshot.
	Cache cache.Cache
	Log   *slog.Logger
}

// Source makes snapshots.
type Source struct {
	cfg       Config
	nodes     table[snapshot.Node]
	pools     table[snapshot.Pool]
	configs   table[snapshot.Config]
	addresses table[addresses]
	watches   []watch

	dirty   chan struct{}
	changed chan struct{}
	// others are told as well, see Subscribe.
	others  []chan struct{}
	current atomic.Pointer[snapshot.Snapshot]

	// base is what the disk said at the start; last is what is remembered of this node itself,
	// since to lose its own MeshNode is no reason to let its Pods down.
	base, last snapshot.Snapshot
	saved      snapshot.Snapshot
	unsaved    bool // what came after saved could not be written
	// orphaned is true while this node's own MeshNode is missing.
	orphaned bool
}

type watch struct {
	name   string
	client rest.Interface
	field  fields.Selector
	object runtime.Object
	store  clientcache.ReflectorStore
}

// New prepares the watches and reads the cache. It does not talk to the API server.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, dirty: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	clients, err := newClients(cfg.REST)
	if err != nil {
		return nil, err
	}
	s.nodes = table[snapshot.Node]{convert: nodeFrom, equal: snapshot.Node.Equal, changed: s.touch}
	s.pools = table[snapshot.Pool]{convert: poolFrom, equal: snapshot.Pool.Equal, changed: s.touch}
	s.configs = table[snapshot.Config]{convert: configFrom, equal: snapshot.Config.Equal, changed: s.touch}
	s.addresses = table[addresses]{convert: addressesFrom, equal: equalAddresses, changed: s.touch}
	everything := fields.Everything()
	s.watches = []watch{
		{"meshnodes", clients.weftnet, everything, &v1alpha1.MeshNode{}, &s.nodes},
		{"ippools", clients.weftnet, everything, &v1alpha1.IPPool{}, &s.pools},
		{"meshconfigs", clients.weftnet, everything, &v1alpha1.MeshConfig{}, &s.configs},
		{"nodes", clients.core, fields.OneTermEqualSelector("metadata.name", cfg.Node), &corev1.Node{}, &s.addresses},
	}
	s.readCache()
	return s, nil
}

func equalAddresses(a, b addresses) bool {
	return slices.Equal(a.internal, b.internal) && slices.Equal(a.external, b.external)
}

func (s *Source) readCache() {
	base, err := s.cfg.Cache.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.cfg.Log.Info("no peer cache on the disk: the first start on this node")
		return
	case err != nil:
		s.cfg.Log.Warn("going on without the peer cache", "error", err)
		return
	}
	s.cfg.Log.Info("read the peer cache", "nodes", len(base.Nodes), "pools", len(base.Pools))
	s.base, s.last = base, base
	s.current.Store(&base)
}

// Snapshot is the latest; ok is false while nothing at all is known.
func (s *Source) Snapshot() (snap snapshot.Snapshot, ok bool) {
	if p := s.current.Load(); p != nil {
		return *p, true
	}
	return snapshot.Snapshot{}, false
}

// Changed is signalled after Snapshot has changed; signals that nobody has taken merge into one.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Subscribe is Changed for one more listener. It must be called before Run.
func (s *Source) Subscribe() <-chan struct{} {
	c := make(chan struct{}, 1)
	s.others = append(s.others, c)
	return c
}

// Synced tells whether every list has been read from the API server.
func (s *Source) Synced() bool {
	snap, ok := s.Snapshot()
	return ok && !snap.Partial
}

func (s *Source) touch() { signal(s.dirty) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run watches until the context ends.
func (s *Source) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, w := range s.watches {
		group.Go(func() { s.reflect(ctx, w) })
	}
	again := time.NewTicker(saveAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			group.Wait()
			return
		case <-again.C:
			if s.unsaved {
				s.save(*s.current.Load())
			}
			continue
		case <-s.dirty:
		}
		// Gather what belongs together. Without an end a steady stream would starve the reader, so
		// there is one pause and no restart of it.
		pause(ctx, settle)
		s.publish()
	}
}

func (s *Source) reflect(ctx context.Context, w watch) {
	lw := clientcache.NewListWatchFromClient(w.client, w.name, "", w.field)
	r := clientcache.NewReflectorWithOptions(clientcache.ToListWatcherWithWatchListSemantics(lw, w.client), w.object, w.store,
		clientcache.ReflectorOptions{Name: "weftnet-agent/" + w.name, Backoff: retry()})
	r.RunWithContext(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// publish makes a snapshot of the tables and announces it if it is new.
func (s *Source) publish() {
	next := s.build()
	if old := s.current.Load(); old != nil && old.Equal(next) {
		return
	}
	// To the disk before it is acted upon: whatever the kernel holds after a crash, the cache is
	// not older.
	s.save(next)
	s.current.Store(&next)
	signal(s.changed)
	for _, c := range s.others {
		signal(c)
	}
}

func (s *Source) build() snapshot.Snapshot {
	next := snapshot.Snapshot{Self: s.cfg.Node, Config: defaultConfig()}
	nodes, synced1 := s.nodes.list()
	pools, synced2 := s.pools.list()
	_, synced3 := s.configs.list()
	_, synced4 := s.addresses.list()
	next.Nodes, next.Pools = nodes, pools
	next.Partial = !synced1 || !synced2 || !synced3 || !synced4
	if c, ok := s.configs.get(v1alpha1.MeshConfigName); ok {
		next.Config = c
	} else if !synced3 && s.base.Self != "" {
		next.Config = s.base.Config
	}
	if next.Partial {
		next.Nodes = union(next.Nodes, s.base.Nodes, func(n snapshot.Node) string { return n.Name })
		next.Pools = union(next.Pools, s.base.Pools, func(p snapshot.Pool) string { return p.Name })
	}
	next = next.Sorted().SettleKeys(s.last)
	s.remember(&next)
	return next
}

// union adds what only the other has.
func union[V any](list, other []V, name func(V) string) []V {
	for _, o := range other {
		if !slices.ContainsFunc(list, func(v V) bool { return name(v) == name(o) }) {
			list = append(list, o)
		}
	}
	return list
}

// remember fills in what is known of this node and is missing now.
func (s *Source) remember(next *snapshot.Snapshot) {
	if a, ok := s.addresses.get(s.cfg.Node); ok && !a.empty() {
		next.InternalIPs, next.ExternalIPs = a.internal, a.external
	} else {
		next.InternalIPs, next.ExternalIPs = s.last.InternalIPs, s.last.ExternalIPs
	}
	own, ok := next.Own()
	old, known := s.last.Own()
	orphaned := known && len(old.PodCIDRs) > 0 && (!ok || len(own.PodCIDRs) == 0)
	if orphaned {
		others := slices.DeleteFunc(slices.Clone(next.Nodes), func(n snapshot.Node) bool { return n.Name == s.cfg.Node })
		next.Nodes = append(others, old)
		*next = next.Sorted()
	}
	if orphaned && !s.orphaned {
		s.cfg.Log.Warn("this node's own MeshNode is gone or has lost its Pod CIDRs; keeping the last known one", "podCIDRs", old.PodCIDRs)
	}
	s.orphaned, s.last = orphaned, *next
}

func (s *Source) save(next snapshot.Snapshot) {
	if next.Partial || s.saved.Equal(next) {
		return
	}
	if err := s.cfg.Cache.Save(next); err != nil {
		if !s.unsaved {
			s.cfg.Log.Warn("the peer cache could not be written; a reboot without the API server would find an older one", "error", err)
		}
		s.unsaved = true
		return
	}
	if s.unsaved {
		s.cfg.Log.Info("the peer cache is written again")
	}
	s.saved, s.unsaved = next, false
}
