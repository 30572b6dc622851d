//go:build apiserver

package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/test/apiserver"
)

// world adds up all changes.
type world struct {
	t        *testing.T
	s        *Source
	pods     map[snapshot.NamespacedName]snapshot.Pod
	policies map[snapshot.NamespacedName]snapshot.NetworkPolicy
	cluster  map[string]snapshot.ClusterNetworkPolicy
	complete bool
}

func add[K comparable, V any](to map[K]V, changes map[K]*V) {
	for k, v := range changes {
		if delete(to, k); v != nil {
			to[k] = *v
		}
	}
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		c := w.s.Take()
		w.complete = c.Complete
		add(w.pods, c.Pods)
		add(w.policies, c.NetworkPolicies)
		add(w.cluster, c.ClusterNetworkPolicies)
		if holds() {
			return
		}
		select {
		case <-w.s.Changed():
		case <-deadline:
			w.t.Fatalf("waited for %s, have %+v", what, w)
		}
	}
}

// TestAgainstARealAPIServer follows objects as they come and go, and the CRD of ClusterNetworkPolicy,
// which comes late and goes again.
func TestAgainstARealAPIServer(t *testing.T) {
	server := apiserver.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := New(Config{Node: "node1", REST: server.Config, Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	w := &world{t: t, s: s, pods: map[snapshot.NamespacedName]snapshot.Pod{}, policies: map[snapshot.NamespacedName]snapshot.NetworkPolicy{},
		cluster: map[string]snapshot.ClusterNetworkPolicy{}}
	scheme := runtime.NewScheme()
	check(t, clientgoscheme.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme), policyv1alpha2.Install(scheme))
	c, err := client.New(server.Config, client.Options{Scheme: scheme})
	check(t, err)
	w.until("complete without the CRD", func() bool { return w.complete })

	p := pod("a", "node1")
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "deny"}}
	check(t, c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "prod"}}), c.Create(ctx, p), c.Create(ctx, np))
	w.until("the Pod and the policy", func() bool {
		return len(w.pods[key("a")].Ports) == 1 && len(w.policies) == 1 && len(w.policies[key("deny")].Types) == 1
	})
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	p.Status.PodIP = "10.0.0.1"
	check(t, c.Status().Update(ctx, p))
	w.until("its addresses", func() bool {
		return len(w.pods[key("a")].IPs) == 2 && w.pods[key("a")].IPs[1] == netip.MustParseAddr("fd00::1")
	})

	text, err := os.ReadFile("../../../helm/weftnet/files/policy-crds/policy.networking.k8s.io_clusternetworkpolicies.yaml")
	check(t, err)
	var crd apiextensionsv1.CustomResourceDefinition
	check(t, yaml.Unmarshal(text, &crd), c.Create(ctx, &crd))
	cnp := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "admin"}}
	cnp.Spec.Tier, cnp.Spec.Priority = policyv1alpha2.AdminTier, 3
	cnp.Spec.Subject.Namespaces = &metav1.LabelSelector{}
	made := func() bool { return c.Create(ctx, cnp.DeepCopy()) == nil }
	deadline := time.After(60 * time.Second)
	for tick := time.NewTicker(50 * time.Millisecond); !made(); { // until the API server serves the kind
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the CRD was not served")
		}
	}
	w.until("the ClusterNetworkPolicy", func() bool { return w.cluster["admin"].Priority == 3 && w.complete })
	check(t, c.Delete(ctx, &crd), c.Delete(ctx, np))
	w.until("everything gone with the CRD", func() bool { return len(w.cluster) == 0 && len(w.policies) == 0 && w.complete })
}
