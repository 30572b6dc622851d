//go:build e2e

package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

// settle is how long a change may take to be in force on every node of a busy machine.
const settle = 90 * time.Second

// makeNamespace makes one that ends with the test.
func makeNamespace(t *testing.T) string {
	t.Helper()
	made, err := cluster.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "weftnet-policy-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Client.CoreV1().Namespaces().Delete(context.Background(), made.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return made.Name
}

// makePod makes a Pod that does nothing, on a node.
func makePod(ctx context.Context, namespace, name, node string) (*corev1.Pod, error) {
	none := int64(0)
	return cluster.Client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "silent"}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &none,
			Containers: []corev1.Container{{
				Name: "pause", Image: harness.AgnhostImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"pause"},
			}},
		},
	}, metav1.CreateOptions{})
}

func nodeName(number int) string { return probes.Pods[number].Spec.NodeName }

// ingressPolicy lets these peers in at these ports; without rules nobody.
func ingressPolicy(name string, rules ...networkingv1.NetworkPolicyIngressRule) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules},
	}
}

func makePolicy(t *testing.T, namespace string, p *networkingv1.NetworkPolicy) {
	t.Helper()
	policies := cluster.Client.NetworkingV1().NetworkPolicies(namespace)
	if _, err := policies.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := policies.Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// namespaceNamed finds a namespace by the label that every namespace has.
func namespaceNamed(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

// portRange of TCP and UDP.
func portRange(first, last int32) []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		port := intstr.FromInt32(first)
		ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port, EndPort: &last})
	}
	return ports
}

var podCgroup = regexp.MustCompile(`pod([0-9a-f]{8}-[0-9a-f-]{27})`)

// processes finds one process of each Pod on this machine, by the Pods' UIDs.
func processes(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if m := podCgroup.FindSubmatch(text); m != nil {
			out[string(m[1])] = filepath.Dir(path)
		}
	}
	return out
}

// place is a Pod's network namespace: sockets of this program are opened in it.
type place struct {
	*nstest.Namespace
	pod *corev1.Pod
}

func placeOf(t *testing.T, pod *corev1.Pod) place {
	t.Helper()
	process, found := processes(t)[string(pod.UID)]
	if !found {
		t.Fatalf("no process is in a cgroup of Pod %s", pod.Name)
	}
	return place{nstest.Open(t, filepath.Join(process, "ns", "net")), pod}
}

// buildWeft makes the command-line client, once.
var buildWeft = sync.OnceValues(func() (string, error) {
	binary := harness.Bin(cluster.Root, "weft")
	_, err := harness.Command(context.Background(), cluster.Root, nil, "go", "build", "-o", binary, "./cli")
	return binary, err
})

// weft runs the command-line client as an administrator of the cluster would.
func weft(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := buildWeft()
	if err != nil {
		t.Fatal(err)
	}
	return harness.Command(t.Context(), cluster.Root, nil, binary, args...)
}

// onNode runs a program in a node's network namespace.
func onNode(t *testing.T, number int, command string) (string, error) {
	t.Helper()
	return harness.Command(t.Context(), cluster.Root, nil, "ip", append([]string{"netns", "exec", nodeName(number)}, strings.Fields(command)...)...)
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := harness.Eventually(t.Context(), settle, what, func(context.Context) error { return check() }); err != nil {
		t.Error(err)
	}
}

// fault runs one of the testbed's faults.
func fault(t *testing.T, args ...string) {
	t.Helper()
	if _, err := cluster.Testbed(t.Context(), append([]string{"fault"}, args...)...); err != nil {
		t.Fatal(fmt.Errorf("make a fault: %w", err))
	}
}
