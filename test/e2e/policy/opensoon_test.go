//go:build e2e && firstpacket

package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/weftnet/weftnet/test/harness"
)

// reachable is how long an allowed Pod may take on a machine that is busy with starting others; how long
// they took is printed.
const reachable = 2 * time.Minute

// TestOpenSoon starts Pods that a policy lets the probes into, while another lets the probes out to
// such Pods only, and measures from when a Pod is seen to be Running until a probe on another node
// gets through to it, over both families.
func TestOpenSoon(t *testing.T) {
	namespace := makeNamespace(t)
	makePolicy(t, namespace, ingressPolicy("probes", networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: namespaceNamed(harness.ProbeNamespace)},
	}}))
	makePolicy(t, harness.ProbeNamespace, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "only-silent"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "probe"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
				{NamespaceSelector: namespaceNamed(namespace), PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "silent"}}},
			}}},
		},
	})
	var took []time.Duration
	for range waves {
		took = append(took, openWave(t, namespace)...)
		empty(t, namespace)
	}
	slices.Sort(took)
	t.Logf("%d Pods, from Running to the first packet delivered from another node, IPv4 and IPv6: p50 %s, p99 %s, longest %s",
		waves*waveSize, took[len(took)/2].Round(time.Millisecond/10), took[len(took)*99/100].Round(time.Millisecond/10), took[len(took)-1].Round(time.Millisecond/10))
}

// openWave starts a wave and gives the times of all addresses.
func openWave(t *testing.T, namespace string) []time.Duration {
	t.Helper()
	events := watchPods(t, namespace)
	clients := map[string]place{}
	for i := range nodes {
		clients[nodeName(i)] = placeOf(t, &probes.Pods[(i+1)%nodes]) // on another node
	}
	started := make(chan error, 1) // beside the watch: who does not read is cut off
	go func() { started <- makeWave(t.Context(), namespace, waveSize) }()
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	for seen := map[string]bool{}; len(seen) < waveSize; {
		event, more := <-events
		pod, is := event.Object.(*corev1.Pod)
		if !more || !is {
			t.Fatalf("the watch has ended after %d Pods: %v", len(seen), event)
		}
		if event.Type == watch.Deleted || pod.Status.Phase != corev1.PodRunning || seen[pod.Name] {
			continue
		}
		seen[pod.Name] = true
		begin := time.Now()
		for _, addr := range harness.Addresses(pod) {
			all.Go(func() {
				err := reach(t, clients[pod.Spec.NodeName], netip.AddrPortFrom(addr, 9))
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(begin))
				if err != nil {
					t.Errorf("Pod %s: %v", pod.Name, err)
				}
			})
		}
	}
	all.Wait()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return took
}

// watchPods follows the Pods of a namespace. A busy API server ends watches; the next one goes on from there.
func watchPods(t *testing.T, namespace string) <-chan watch.Event {
	t.Helper()
	pods := cluster.Client.CoreV1().Pods(namespace)
	now, err := pods.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := watchtools.NewRetryWatcherWithContext(t.Context(), now.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return pods.Watch(ctx, o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w.ResultChan()
}

// reach tries to connect until the Pod itself refuses: nobody listens there, so that is its answer.
func reach(t *testing.T, from place, to netip.AddrPort) error {
	t.Helper()
	for deadline := time.Now().Add(reachable); ; {
		var err error
		from.Do(t, func() { _, err = net.DialTimeout("tcp", to.String(), 20*time.Millisecond) })
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not reached from %s: %w", to, from.pod.Spec.NodeName, err)
		}
	}
}
