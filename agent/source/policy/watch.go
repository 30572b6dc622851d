package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// crdName is the CRD of ClusterNetworkPolicy.
const crdName = "clusternetworkpolicies.policy.networking.k8s.io"

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// retry of a list or watch that failed.
func retry() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 5 * time.Second}
}

// watch is one list and watch.
type watch struct {
	name   string
	lister cache.ListerWatcher
	object runtime.Object
	store  cache.ReflectorStore
	// optional ones run while the CRD is installed.
	optional bool
}

func (s *Source) watchesOf(cfg *rest.Config) ([]watch, error) {
	core, err1 := clientOf(cfg, corev1.SchemeGroupVersion, corev1.AddToScheme, runtime.ContentTypeProtobuf)
	networking, err2 := clientOf(cfg, networkingv1.SchemeGroupVersion, networkingv1.AddToScheme, runtime.ContentTypeProtobuf)
	policy, err3 := clientOf(cfg, schema.GroupVersion(policyv1alpha2.GroupVersion), policyv1alpha2.Install, runtime.ContentTypeJSON)
	crds, err4 := crdLister(cfg)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	all := func(client rest.Interface, resource string, l *line) cache.ListerWatcher {
		lw := cache.NewListWatchFromClient(client, resource, "", fields.Everything())
		return l.notice(cache.ToListWatcherWithWatchListSemantics(lw, client))
	}
	return []watch{
		{name: "pods", lister: all(core, "pods", &s.pods.line), object: &corev1.Pod{}, store: &s.pods},
		{name: "namespaces", lister: all(core, "namespaces", &s.namespaces.line), object: &corev1.Namespace{}, store: &s.namespaces},
		{name: "nodes", lister: all(core, "nodes", &s.nodes.line), object: &corev1.Node{}, store: &s.nodes},
		{name: "networkpolicies", lister: all(networking, "networkpolicies", &s.policies.line), object: &networkingv1.NetworkPolicy{}, store: &s.policies},
		{name: "customresourcedefinitions", lister: crds, object: &metav1.PartialObjectMetadata{}, store: &s.crds},
		{name: "clusternetworkpolicies", lister: s.noneWithoutVersion(all(policy, "clusternetworkpolicies", &s.cluster.line)),
			object: &policyv1alpha2.ClusterNetworkPolicy{}, store: &s.cluster, optional: true},
	}, nil
}

func clientOf(cfg *rest.Config, gv schema.GroupVersion, add func(*runtime.Scheme) error, contentType string) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, fmt.Errorf("register the types of %s: %w", gv, err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	own := rest.CopyConfig(cfg)
	own.GroupVersion, own.APIPath = &gv, "/apis"
	if gv.Group == "" {
		own.APIPath = "/api"
	}
	// Half the bytes and a fraction of the work, for kinds that know it.
	own.ContentType = contentType
	own.AcceptContentTypes = contentType + "," + runtime.ContentTypeJSON
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", gv, err)
	}
	return c, nil
}

// crdLister lists and watches the metadata of the one CRD.
func crdLister(cfg *rest.Config) (cache.ListerWatcher, error) {
	c, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for CRDs: %w", err)
	}
	only := fields.OneTermEqualSelector("metadata.name", crdName).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return c.Resource(crdResource).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.FieldSelector = only
			return c.Resource(crdResource).Watch(ctx, o)
		},
	}, nil
}

// noneWithoutVersion : where the CRD is there and does not serve the version that we know, there are
// no policies that could be read, and no Pod shall wait for them.
func (s *Source) noneWithoutVersion(lw cache.ListerWatcher) cache.ListerWatcher {
	from := cache.ToListerWatcherWithContext(lw)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := from.ListWithContext(ctx, o)
			if apierrors.IsNotFound(err) && !s.cluster.complete() {
				s.cfg.Log.Warn("the CRD of ClusterNetworkPolicy does not serve the version that is known; going on without",
					"crd", crdName, "version", policyv1alpha2.GroupVersion.Version)
				s.cluster.settle()
			}
			return list, err
		},
		WatchFuncWithContext: from.WatchWithContext,
	}
}

// Run watches until the context ends.
func (s *Source) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, w := range s.watches {
		if w.optional {
			group.Go(func() { s.whileInstalled(ctx, w) })
		} else {
			group.Go(func() { follow(ctx, w) })
		}
	}
	group.Wait()
}

func follow(ctx context.Context, w watch) {
	r := cache.NewReflectorWithOptions(w.lister, w.object, w.store, cache.ReflectorOptions{Name: "weftnet-agent/policy/" + w.name, Backoff: retry()})
	r.RunWithContext(ctx)
}

// whileInstalled watches while the CRD is there. When it goes, its objects have gone with it.
func (s *Source) whileInstalled(ctx context.Context, w watch) {
	installed := func() bool { _, ok := s.crds.get(crdName); return ok }
	for ctx.Err() == nil && s.Await(ctx, installed) {
		watching, stop := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() { follow(watching, w) })
		s.Await(ctx, func() bool { return !installed() })
		stop()
		group.Wait()
		if ctx.Err() == nil {
			_ = w.store.Replace(nil, "")
		}
	}
}
