//go:build e2e && rolling

package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/test/harness"
)

const (
	rollers      = 20
	rollRate     = 500 // requests a second
	rollDeadline = 8 * time.Minute
)

// lingers is how long a Pod goes on serving once it terminates. Those who pick it meanwhile have not
// heard of its end: the EndpointSlice controller, the API server and three agents have to share two
// processors with the load. A production Deployment behind any proxy needs such a pause; see
// https://kubernetes.io/docs/tutorials/services/pods-and-endpoint-termination-flow/.
const lingers = 15 * time.Second

// settled is for how long a new Pod has to be ready before the next one is begun. Nodes of this testbed share two processors: a
// rollout that goes on at once takes all that it can get of them, for the start of containers, and leaves too little for the
// userspace WireGuard, whose queue overflows. That is a full node, which docs/operations.md is about; this test is about endpoints.
const settled = 2 * time.Second

// roller is a Deployment as a careful person writes it: ready when it answers, with a request of
// processor time, one Pod at a time, and asked to end only some seconds after it has left the endpoints. Without the
// request a Pod is of the class BestEffort, whose control group weighs 2 against 1024 for that of the
// node's programs: on a full machine that may leave the servers no time.
func roller() *appsv1.Deployment {
	labels, one, none := map[string]string{"app": "roller"}, intstr.FromInt32(1), intstr.FromInt32(0)
	grace := int64((lingers + 15*time.Second).Seconds())
	replicas := int32(rollers)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "roller", Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, MinReadySeconds: int32(settled.Seconds()),
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &grace,
					Containers: []corev1.Container{{
						Name: "agnhost", Image: harness.AgnhostImage, ImagePullPolicy: corev1.PullIfNotPresent,
						Args:      []string{"netexec", fmt.Sprintf("--http-port=%d", podTCP), "--udp-port=-1"},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("25m")}},
						ReadinessProbe: &corev1.Probe{PeriodSeconds: 2, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{
							HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(podTCP)},
						}},
						Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(lingers.Seconds())}}},
					}},
				},
			},
		},
	}
}

// TestRollingUpdateLosesNoRequest replaces 20 Pods under load from Pods, nodes and outside. No request
// may fail: a refusal, a reset, an early end and an answer that takes longer than rollPatience alike.
func TestRollingUpdateLosesNoRequest(t *testing.T) {
	deployments := cluster.Client.AppsV1().Deployments(namespace)
	if _, err := deployments.Create(t.Context(), roller(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := deployments.Delete(context.Background(), "roller", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	s := makeService(t, "roller", func(spec *corev1.ServiceSpec) {
		spec.Selector, spec.Type, spec.Ports = map[string]string{"app": "roller"}, corev1.ServiceTypeNodePort, spec.Ports[:1]
	})
	awaitRolled(t)
	var aims []aim
	outside := outsidePlace(t, 1)
	for family, ip := range clusterIPs(s) {
		for _, from := range insiders(t) {
			aims = append(aims, aim{from, netip.AddrPortFrom(ip, portTCP)})
		}
		for node := range probes.Hosts {
			aims = append(aims, aim{outside, netip.AddrPortFrom(nodeAddrs(node)[family], nodePort(s, corev1.ProtocolTCP))})
		}
	}
	for _, a := range aims {
		eventually(t, fmt.Sprintf("%s reaches %s", a.from.name, a.to), func() error {
			_, err := a.from.ask(t, corev1.ProtocolTCP, a.to, "hostname")
			return err
		})
	}
	before := podNames(t)
	began := time.Now()
	l := startRequests(t, rollRate, aims)
	patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"rolled":"yes"}}}}}`)
	if _, err := deployments.Patch(t.Context(), "roller", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitRolled(t)
	throughRules(t, s, !*atSockets)
	lasted := time.Since(began)
	l.end(t, rollRate, lasted)
	for name := range podNames(t) {
		if before[name] {
			t.Errorf("Pod %s was not replaced", name)
		}
	}
}

// throughRules requires that the load of Pods and nodes is translated by the rules, or that none of it is: what
// is not at the socket shows nothing of the balancing there.
func throughRules(t *testing.T, s *corev1.Service, want bool) {
	t.Helper()
	ips, n, all := clusterIPs(s), 0, allFlows()
	for _, f := range all {
		if slices.Contains(ips, f.Original.Dst.Addr()) {
			n++
		}
	}
	t.Logf("%d of %d TCP flows that the nodes know were begun to the ClusterIP", n, len(all))
	if (n > 0) != want {
		t.Errorf("%d flows to the ClusterIP were translated by the rules: want some: %t", n, want)
	}
}

// awaitRolled waits until all Pods are of the newest template and the old ones are gone.
func awaitRolled(t *testing.T) {
	t.Helper()
	err := harness.Eventually(t.Context(), rollDeadline, "the Deployment has rolled", func(ctx context.Context) error {
		d, err := cluster.Client.AppsV1().Deployments(namespace).Get(ctx, "roller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != rollers || s.AvailableReplicas != rollers || s.Replicas != rollers {
			return fmt.Errorf("%d updated, %d available, %d in all", s.UpdatedReplicas, s.AvailableReplicas, s.Replicas)
		}
		if n := len(podNames(t)); n != rollers {
			return fmt.Errorf("%d Pods are there still", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func podNames(t *testing.T) map[string]bool {
	t.Helper()
	pods, err := cluster.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=roller"})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, p := range pods.Items {
		names[p.Name] = true
	}
	return names
}
