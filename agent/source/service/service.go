// Package service watches what the service proxy is made of: Services, EndpointSlices, ServiceCIDRs
// and this node's own Node. Each object becomes a plain value as it comes in, and everything else
// of it is forgotten, since there may be 40,000 Services. What changed is queued by Service.
package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	clientcache "k8s.io/client-go/tools/cache"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// served selects what is a proxy's business, as kube-proxy does: not what names another proxy, and
// not what is headless.
const served = "!" + "service.kubernetes.io/service-proxy-name" + ",!" + corev1.IsHeadlessService

// Config says what to watch.
type Config struct {
	// Node is the name of this node.
	Node string
	REST *rest.Config
	// Apart is for Services and EndpointSlices, which change often; nil is REST.
	Apart *rest.Config
}

// Source knows the Services and their endpoints.
type Source struct {
	cfg     Config
	watches []watched
	changed chan struct{}
	started time.Time

	mu       sync.Mutex
	services map[snapshot.ServiceName]*snapshot.Service
	slices   sliceTable
	cidrs    map[string]CIDR
	node     Node
	synced   map[string]bool
	pending  Changes
}

// Changes is what has changed since it was last asked.
type Changes struct {
	// Services are those that changed themselves, or whose endpoints did.
	Services map[snapshot.ServiceName]struct{}
	// Triggers are the times at which the changes of endpoints had their cause, as the EndpointSlice
	// controller noted them.
	Triggers map[snapshot.ServiceName][]time.Time
	// ServiceEvents and SliceEvents are how many objects came, changed or went; ServiceChanges and
	// SliceChanges how many of those changed something that a proxy looks at.
	ServiceEvents, SliceEvents   int
	ServiceChanges, SliceChanges int
	// Facts says that the node or the ranges of the Services changed.
	Facts bool
}

// Empty tells whether nothing has changed.
func (c Changes) Empty() bool { return len(c.Services) == 0 && !c.Facts }

type watched struct {
	name    string
	client  rest.Interface
	options func(*metav1.ListOptions)
	object  runtime.Object
	store   clientcache.ReflectorStore
	// lister is set where there may be so many objects that the way in which they are read counts.
	lister *lister
}

// New prepares the watches. It does not talk to the API server.
func New(cfg Config) (*Source, error) {
	s := newSource(cfg)
	clients := map[schema.GroupVersion]rest.Interface{}
	for _, gv := range []schema.GroupVersion{corev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion} {
		c, err := newClient(cfg.REST, gv)
		if err != nil {
			return nil, err
		}
		clients[gv] = c
	}
	services, slices, err := s.largest()
	if err != nil {
		return nil, err
	}
	own := func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + cfg.Node }
	s.watches = []watched{
		services, slices,
		{"servicecidrs", clients[networkingv1.SchemeGroupVersion], func(*metav1.ListOptions) {}, &networkingv1.ServiceCIDR{}, &store[CIDR]{source: s, kind: "servicecidrs", convert: cidrFrom, put: s.putCIDR, remove: s.removeCIDR, replace: s.replaceCIDRs}, nil},
		{"nodes", clients[corev1.SchemeGroupVersion], own, &corev1.Node{}, &store[Node]{source: s, kind: "nodes", convert: nodeFrom, put: s.putNode, remove: s.removeNode, replace: s.replaceNodes}, nil},
	}
	return s, nil
}

// largest are the watches of what there is most of.
func (s *Source) largest() (services, slices watched, err error) {
	cfg := s.cfg.Apart
	if cfg == nil {
		cfg = s.cfg.REST
	}
	core, err1 := newClient(cfg, corev1.SchemeGroupVersion)
	discovery, err2 := newClient(cfg, discoveryv1.SchemeGroupVersion)
	if err := errors.Join(err1, err2); err != nil {
		return watched{}, watched{}, err
	}
	labels := func(o *metav1.ListOptions) { o.LabelSelector = served }
	all := &store[*snapshot.Service]{source: s, kind: "services", convert: serviceFrom, put: s.putService, remove: s.removeService, replace: s.replaceServices}
	endpoints := &store[*slice]{source: s, kind: "endpointslices", convert: sliceFrom, put: s.putSlice, remove: s.removeSlice, replace: s.replaceSlices}
	scheme, err := newScheme()
	if err != nil {
		return watched{}, watched{}, err
	}
	decoder := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	return watched{all.kind, core, labels, &corev1.Service{}, all, listed[corev1.Service](core, decoder, labels, all)},
		watched{endpoints.kind, discovery, labels, &discoveryv1.EndpointSlice{}, endpoints, listed[discoveryv1.EndpointSlice](discovery, decoder, labels, endpoints)}, nil
}

func newSource(cfg Config) *Source {
	return &Source{
		cfg: cfg, changed: make(chan struct{}, 1), started: time.Now(), node: Node{Name: cfg.Node},
		services: map[snapshot.ServiceName]*snapshot.Service{}, slices: newSliceTable(), cidrs: map[string]CIDR{}, synced: map[string]bool{},
	}
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return scheme, nil
}

// newClient speaks protobuf, which is half the work of JSON for the API server and for us.
func newClient(cfg *rest.Config, gv schema.GroupVersion) (rest.Interface, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	own := rest.CopyConfig(cfg)
	own.GroupVersion, own.APIPath = &gv, "/apis"
	if gv.Group == "" {
		own.APIPath = "/api"
	}
	own.ContentType = runtime.ContentTypeProtobuf
	own.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", gv, err)
	}
	return client, nil
}

// retry of a list or watch that failed: client-go's default waits up to a minute, and meanwhile
// traffic goes to endpoints that are gone.
func retry() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 5 * time.Second}
}

// Run watches until the context ends.
func (s *Source) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, w := range s.watches {
		group.Go(func() { w.run(ctx) })
	}
	group.Wait()
}

func (w watched) run(ctx context.Context) {
	lw := clientcache.NewFilteredListWatchFromClient(w.client, w.name, "", w.options)
	begins := any(w.client)
	if w.lister != nil {
		lw.ListWithContextFunc, lw.WatchFuncWithContext, begins = w.lister.list, w.lister.watch, w.lister
	}
	r := clientcache.NewReflectorWithOptions(clientcache.ToListWatcherWithWatchListSemantics(lw, begins), w.object, w.store,
		clientcache.ReflectorOptions{Name: "weftnet-agent/service/" + w.name, Backoff: retry()})
	r.RunWithContext(ctx)
}

// Synced tells whether Services, EndpointSlices and the Node have been read in full. The ranges of
// the Services are not waited for: a cluster may not have the kind, and they only make refusals exact.
func (s *Source) Synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced["services"] && s.synced["endpointslices"] && s.synced["nodes"]
}

// Changed is signalled when there is something to Take; signals that nobody has taken merge into one.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Take returns what has changed since the last Take.
func (s *Source) Take() Changes {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.pending
	s.pending = Changes{}
	return c
}

// Get returns a Service with its EndpointSlices, sorted by name; ok is false when there is no such Service.
// What it returns must not be changed.
func (s *Source) Get(name snapshot.ServiceName) (svc snapshot.Service, slices []snapshot.EndpointSlice, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.services[name]
	if p == nil {
		return snapshot.Service{ServiceName: name}, nil, false
	}
	return *p, s.slices.of(name), true
}

// Peek returns a Service, nil where there is none, and whether it has EndpointSlices; it copies nothing. What it returns must
// not be changed.
func (s *Source) Peek(name snapshot.ServiceName) (svc *snapshot.Service, served bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[name], len(s.slices.byService[name]) > 0
}

// Names are all Services, in no order.
func (s *Source) Names() []snapshot.ServiceName {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]snapshot.ServiceName, 0, len(s.services))
	for name := range s.services {
		out = append(out, name)
	}
	return out
}

// Node is what is known of this node.
func (s *Source) Node() Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// CIDRs are the ranges of all ServiceCIDR objects, in no order.
func (s *Source) CIDRs() CIDR {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out CIDR
	for _, c := range s.cidrs {
		out = append(out, c...)
	}
	return out
}

func (s *Source) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
