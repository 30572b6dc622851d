package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/snapshot"
)

func newSource(t *testing.T) *Source {
	t.Helper()
	s, err := New(newSourceConfig())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSourceConfig() Config {
	clock := time.Unix(1700000000, 0)
	return Config{
		Node: "node1", REST: &rest.Config{Host: "http://127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { clock = clock.Add(time.Second); return clock },
	}
}

func pod(name, node string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: name, Labels: map[string]string{"app": "web"}}}
	p.Spec.NodeName = node
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func key(name string) snapshot.NamespacedName {
	return snapshot.NamespacedName{Namespace: "prod", Name: name}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompleteOnlyWhenEveryListIsRead(t *testing.T) {
	s := newSource(t)
	crd := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: crdName}}
	steps := []func() error{
		func() error { return s.pods.Replace([]any{pod("a", "node2", "10.0.0.1")}, "1") },
		func() error { return s.namespaces.Replace(nil, "1") },
		func() error { return s.nodes.Replace(nil, "1") },
		func() error { return s.policies.Replace(nil, "1") },
		func() error { return s.crds.Replace([]any{crd}, "1") },
		func() error { return s.cluster.Replace(nil, "1") },
	}
	for i, step := range steps {
		if c := s.Take(); c.Complete || len(s.Missing()) == 0 {
			t.Errorf("complete after %d of %d lists", i, len(steps))
		}
		check(t, step())
	}
	if c := s.Take(); !c.Complete || len(s.Missing()) != 0 {
		t.Errorf("not complete, missing %v", s.Missing())
	}
	without := newSource(t)
	for i, step := range []func() error{
		func() error { return without.pods.Replace(nil, "1") }, func() error { return without.namespaces.Replace(nil, "1") },
		func() error { return without.nodes.Replace(nil, "1") }, func() error { return without.policies.Replace(nil, "1") },
		func() error { return without.crds.Replace(nil, "1") },
	} {
		if without.Complete() {
			t.Errorf("complete after %d lists", i)
		}
		check(t, step())
	}
	if !without.Complete() {
		t.Error("waits for ClusterNetworkPolicies that no CRD has")
	}
}

func TestChangesAreTheLastOfEachKey(t *testing.T) {
	s := newSource(t)
	check(t, s.pods.Add(pod("a", "node1")), s.pods.Update(pod("a", "node1", "10.0.0.1")), s.pods.Add(pod("b", "node2", "10.0.0.2", "fd00::2")))
	c := s.Take()
	if len(c.Pods) != 2 || len(c.Pods[key("a")].IPs) != 1 || c.Pods[key("b")].IPs[1] != netip.MustParseAddr("fd00::2") {
		t.Errorf("changes are %+v", c.Pods)
	}
	if want := time.Unix(1700000001, 0); !c.Since.Equal(want) {
		t.Errorf("since %v, want the first of them, %v", c.Since, want)
	}
	same := pod("a", "node1", "10.0.0.1")
	same.ResourceVersion, same.Status.Phase = "7", corev1.PodRunning
	check(t, s.pods.Update(same))
	if c := s.Take(); !c.Empty() {
		t.Errorf("what policies do not see woke them: %+v", c)
	}
	check(t, s.pods.Delete(cache.DeletedFinalStateUnknown{Key: "prod/a", Obj: same}))
	c = s.Take()
	if v, told := c.Pods[key("a")]; !told || v != nil {
		t.Errorf("a deletion was not told: %+v", c.Pods)
	}
	// A complete list without b is its deletion.
	check(t, s.pods.Replace([]any{pod("c", "node2", "10.0.0.3")}, "9"))
	c = s.Take()
	if v, told := c.Pods[key("b")]; !told || v != nil || c.Pods[key("c")] == nil {
		t.Errorf("after a new list: %+v", c.Pods)
	}
}

// A Pod that has ended has given its addresses back, also to a Pod that gets them next.
func TestPodsThatPoliciesDoNotSee(t *testing.T) {
	s := newSource(t)
	host := pod("host", "node1", "192.0.2.1")
	host.Spec.HostNetwork = true
	check(t, s.pods.Replace([]any{host, pod("elsewhere", "node2"), pod("here", "node1"), pod("job", "node2", "10.0.0.9")}, "1"))
	c := s.Take()
	if len(c.Pods) != 2 || c.Pods[key("here")] == nil || c.Pods[key("job")] == nil {
		t.Errorf("Pods are %+v, want those here and with an address", c.Pods)
	}
	ended := pod("job", "node2", "10.0.0.9")
	ended.Status.Phase = corev1.PodSucceeded
	check(t, s.pods.Update(ended))
	if v, told := s.Take().Pods[key("job")]; !told || v != nil {
		t.Error("a Pod that has ended keeps its address")
	}
	check(t, s.pods.Delete(ended))
	if c := s.Take(); !c.Empty() {
		t.Errorf("it ends twice: %+v", c.Pods)
	}
}

// TestMirrorPods: the runtime knows a static Pod by the hash of its file.
func TestMirrorPods(t *testing.T) {
	s := newSource(t)
	mirror := pod("static", "node1")
	mirror.UID, mirror.Annotations = "of-the-api", map[string]string{corev1.MirrorPodAnnotationKey: "of-the-file"}
	check(t, s.pods.Add(mirror))
	if p, _ := s.Pod(key("static")); p.UID != "of-the-file" {
		t.Errorf("its UID is %q", p.UID)
	}
}

func TestPodsOfADeploymentShareTheirTexts(t *testing.T) {
	s := newSource(t)
	check(t, s.pods.Add(pod("a", "node2", "10.0.0.1")), s.pods.Add(pod("b", "node2", "10.0.0.2")))
	c := s.Take()
	a, b := c.Pods[key("a")], c.Pods[key("b")]
	if &a.Labels[0] != &b.Labels[0] {
		t.Error("equal labels are held twice")
	}
}

func TestPolicies(t *testing.T) {
	s := newSource(t)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "prod", Name: "deny", Annotations: map[string]string{"policy.weftnet.io/log": "true"}}}
	cnp := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "admin"}}
	cnp.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{{}}}}
	check(t, s.policies.Add(p), s.cluster.Add(cnp))
	c := s.Take()
	if got := c.NetworkPolicies[key("deny")]; got == nil || !got.Log || got.Audit {
		t.Errorf("NetworkPolicies are %+v", c.NetworkPolicies)
	}
	if got := c.ClusterNetworkPolicies["admin"]; got == nil || len(got.Egress[0].Peers) != 1 {
		t.Errorf("ClusterNetworkPolicies are %+v", c.ClusterNetworkPolicies)
	}
	check(t, s.policies.Add(p), s.cluster.Add(cnp))
	if c := s.Take(); !c.Empty() {
		t.Errorf("the same again is news: %+v", c)
	}
}

func TestAwait(t *testing.T) {
	s := newSource(t)
	known := func() bool { _, ok := s.Pod(key("a")); return ok }
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if s.Await(short, known) {
		t.Error("holds without the Pod")
	}
	done := make(chan bool)
	go func() { done <- s.Await(t.Context(), known) }()
	check(t, s.pods.Add(pod("b", "node1")), s.pods.Add(pod("a", "node1")))
	select {
	case ok := <-done:
		if !ok {
			t.Error("does not hold with the Pod")
		}
	case <-time.After(20 * time.Second):
		t.Error("the news was missed")
	}
}
