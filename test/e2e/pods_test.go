//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/test/harness"
)

const burst = 60

// TestBurstOfPods starts 60 Pods at once, looks whether each got addresses of its own, deletes them
// all at once, and looks whether anything of them stayed on the nodes.
func TestBurstOfPods(t *testing.T) {
	before := hostEnds(t)
	labels := map[string]string{"app": "burst"}
	pod := podSpec("pause")
	replicas := int32(burst)
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "burst"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
		},
	}
	deployments := cluster.Client.AppsV1().Deployments(harness.ProbeNamespace)
	if _, err := deployments.Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	pods, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app=burst", burst, 3*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d Pods were ready after %s", burst, time.Since(begin).Round(100*time.Millisecond))
	checkDistinct(t, pods)

	background := metav1.DeletePropagationForeground
	if err := deployments.Delete(t.Context(), "burst", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app=burst", 0, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	err = harness.Eventually(t.Context(), time.Minute, "nothing of the Pods is left on the nodes", func(context.Context) error {
		if after := hostEnds(t); after != before {
			return fmt.Errorf("%d host ends of Pods, %d before the burst", after, before)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func checkDistinct(t *testing.T, pods []corev1.Pod) {
	t.Helper()
	owner := map[netip.Addr]string{}
	for i := range pods {
		addresses := harness.Addresses(&pods[i])
		if len(addresses) != 2 {
			t.Errorf("Pod %s has addresses %s, want one of each family", pods[i].Name, addresses)
		}
		for _, addr := range addresses {
			if other, taken := owner[addr]; taken {
				t.Errorf("%s and %s both have %s", other, pods[i].Name, addr)
			}
			owner[addr] = pods[i].Name
		}
	}
}

// hostEnds counts the host ends of Pods on all nodes.
func hostEnds(t *testing.T) int {
	t.Helper()
	count := 0
	for i := range nodes {
		count += strings.Count(inNode(t, fmt.Sprintf("tb-node%d", i+1), "ip", "-o", "link", "show"), ": weftp")
	}
	return count
}

// inNode runs a command of this machine in the network namespace of a node.
func inNode(t *testing.T, node string, command ...string) string {
	t.Helper()
	out, err := harness.Command(t.Context(), cluster.Root, nil, "ip", append([]string{"netns", "exec", node}, command...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func podSpec(args ...string) corev1.PodSpec {
	none := int64(0)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &none,
		Containers: []corev1.Container{{
			Name: "agnhost", Image: harness.AgnhostImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}},
		}},
	}
}

// startPod runs one Pod until the test ends and waits until it is ready.
func startPod(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	pod.Namespace = harness.ProbeNamespace
	pod.Labels = map[string]string{"app": pod.Name}
	pods := cluster.Client.CoreV1().Pods(harness.ProbeNamespace)
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pods.Delete(context.Background(), pod.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	ready, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app="+pod.Name, 1, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return &ready[0]
}

func TestHostPortIsReachedInBothFamilies(t *testing.T) {
	pod := startHostPortPod(t, "hostport", "tb-node2", 9090)
	checkHostPort(t, pod.Spec.NodeName, 9090)
	// From the node itself, at its loopback too, over TCP and UDP.
	for _, command := range []string{
		"curl -s --max-time 5 http://127.0.0.1:9090/hostname",
		"echo hostname | nc -u -w 2 127.0.0.1 9091",
		"echo hostname | nc -u -w 2 " + meshNode(t, pod.Spec.NodeName).Spec.NodeIPs[0] + " 9091",
	} {
		i := slices.IndexFunc(probes.Hosts, func(p corev1.Pod) bool { return p.Spec.NodeName == pod.Spec.NodeName })
		err := harness.Eventually(t.Context(), time.Minute, "on the node, "+command, func(ctx context.Context) error {
			out, err := cluster.Exec(ctx, &probes.Hosts[i], "bash", "-c", command)
			if err == nil && strings.TrimSpace(out) != pod.Name {
				err = fmt.Errorf("answer %q, want %s", out, pod.Name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// startHostPortPod runs a Pod that answers on a TCP port of its node, and on the next one over UDP.
func startHostPortPod(t *testing.T, name, node string, port int32) *corev1.Pod {
	t.Helper()
	spec := podSpec("netexec", "--http-port=8080", "--udp-port=8081")
	spec.NodeName = node
	spec.Containers[0].Ports = []corev1.ContainerPort{
		{Name: "tcp", ContainerPort: 8080, HostPort: port},
		{Name: "udp", ContainerPort: 8081, HostPort: port + 1, Protocol: corev1.ProtocolUDP},
	}
	spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)},
	}}
	return startPod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
}

// checkHostPort asks for a port of a node from outside the cluster.
func checkHostPort(t *testing.T, node string, port uint16) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, addr := range addrs(t, meshNode(t, node).Spec.NodeIPs) {
		target := "http://" + netip.AddrPortFrom(addr, port).String() + "/hostname"
		err := harness.Eventually(t.Context(), time.Minute, target+" answers", func(context.Context) error {
			response, err := client.Get(target)
			if err != nil {
				return err
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("the answer is %s", response.Status)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestBandwidthAnnotationsLimitAPod checks the order of magnitude only: the limit must bite, and
// must not strangle.
func TestBandwidthAnnotationsLimitAPod(t *testing.T) {
	const port, limit = 5302, 20e6
	spec := podSpec("pause")
	spec.NodeName = "tb-node2"
	pod := startPod(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "limited", Annotations: map[string]string{
			"kubernetes.io/ingress-bandwidth": "20M", "kubernetes.io/egress-bandwidth": "20M",
		}},
		Spec: spec,
	})
	if err := cluster.ServeStreams(t.Context(), pod, port); err != nil {
		t.Fatal(err)
	}
	if err := cluster.ServeStreams(t.Context(), &probes.Pods[2], port); err != nil {
		t.Fatal(err)
	}
	for name, stream := range map[string]harness.Stream{
		"into the Pod":   {From: &probes.Pods[2], To: harness.Addresses(pod)[0], Port: port, For: 4 * time.Second},
		"out of the Pod": {From: pod, To: harness.Addresses(&probes.Pods[2])[0], Port: port, For: 4 * time.Second},
	} {
		result, err := cluster.RunStream(t.Context(), stream)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s: %.1f Mbit/s", name, result.BitsPerSecond/1e6)
		if result.BitsPerSecond > 2*limit || result.BitsPerSecond < limit/4 {
			t.Errorf("%s: %.1f Mbit/s, the annotation says %.0f", name, result.BitsPerSecond/1e6, limit/1e6)
		}
	}
}
