package harness

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// AgnhostImage answers requests, and carries curl, iperf3 and the like.
	AgnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
	// ProbeNamespace is where probe Pods live.
	ProbeNamespace = "weftnet-probe"

	podPort  = 8080
	hostPort = 18080
)

// Probes are one Pod of the cluster network and one of the host network on every node.
type Probes struct {
	Pods  []corev1.Pod
	Hosts []corev1.Pod
}

// StartProbes places the probe Pods on every node and waits for them.
func (c *Cluster) StartProbes(ctx context.Context, nodes int) (*Probes, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ProbeNamespace}}
	if _, err := c.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create namespace %s: %w", ProbeNamespace, err)
	}
	for _, set := range []*appsv1.DaemonSet{probeSet("probe", podPort, false), probeSet("probe-host", hostPort, true)} {
		_, err := c.Client.AppsV1().DaemonSets(ProbeNamespace).Create(ctx, set, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create DaemonSet %s: %w", set.Name, err)
		}
	}
	return c.FindProbes(ctx, nodes)
}

// FindProbes waits until every node's probe Pods are ready and returns them, sorted by node.
func (c *Cluster) FindProbes(ctx context.Context, nodes int) (*Probes, error) {
	var probes Probes
	var err error
	if probes.Pods, err = c.WaitPods(ctx, ProbeNamespace, "app=probe", nodes, 2*time.Minute); err != nil {
		return nil, err
	}
	if probes.Hosts, err = c.WaitPods(ctx, ProbeNamespace, "app=probe-host", nodes, 2*time.Minute); err != nil {
		return nil, err
	}
	byNode := func(a, b corev1.Pod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) }
	slices.SortFunc(probes.Pods, byNode)
	slices.SortFunc(probes.Hosts, byNode)
	return &probes, nil
}

// StopProbes removes the probe Pods' namespace without waiting for it to go.
func (c *Cluster) StopProbes(ctx context.Context) error {
	err := c.Client.CoreV1().Namespaces().Delete(ctx, ProbeNamespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", ProbeNamespace, err)
	}
	return nil
}

func probeSet(name string, port int, hostNetwork bool) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	none := int64(0)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					HostNetwork: hostNetwork,
					// A Node that is an object only, without a machine, has no labels.
					NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
					TerminationGracePeriodSeconds: &none,
					Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers: []corev1.Container{{
						Name:            "agnhost",
						Image:           AgnhostImage,
						ImagePullPolicy: corev1.PullIfNotPresent,
						Args:            []string{"netexec", "--http-port=" + strconv.Itoa(port), "--udp-port=" + strconv.Itoa(port+1)},
						ReadinessProbe:  httpReadiness(port),
					}},
				},
			},
		},
	}
}

// httpReadiness lets the kubelet ask; starting a program in the Pod for it, again and again, costs
// more processor time than all else in the cluster.
func httpReadiness(port int) *corev1.Probe {
	return &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(int32(port))},
	}}
}

// Hop is one request over the network and what came of it.
type Hop struct {
	From, To string
	Target   netip.AddrPort
	// Seen is the source address that the far side saw; the zero Addr when there was no answer.
	Seen netip.Addr
	// Took is how long the request took, connecting included.
	Took time.Duration
}

// PodHops are requests from every probe Pod to every probe Pod.
func (c *Cluster) PodHops(ctx context.Context, p *Probes) ([]Hop, error) {
	return c.hops(ctx, p.Pods, p.Pods, podPort)
}

// NodeToPodHops are requests from every node to every probe Pod.
func (c *Cluster) NodeToPodHops(ctx context.Context, p *Probes) ([]Hop, error) {
	return c.hops(ctx, p.Hosts, p.Pods, podPort)
}

// PodToNodeHops are requests from every probe Pod to every node.
func (c *Cluster) PodToNodeHops(ctx context.Context, p *Probes) ([]Hop, error) {
	return c.hops(ctx, p.Pods, p.Hosts, hostPort)
}

// hops asks every source, in one exec each, to request the address of every target.
func (c *Cluster) hops(ctx context.Context, sources, targets []corev1.Pod, port uint16) ([]Hop, error) {
	var wanted []Hop
	for _, target := range targets {
		for _, ip := range target.Status.PodIPs {
			addr, err := netip.ParseAddr(ip.IP)
			if err != nil {
				return nil, fmt.Errorf("read the address of Pod %s: %w", target.Name, err)
			}
			wanted = append(wanted, Hop{To: target.Name, Target: netip.AddrPortFrom(addr, port)})
		}
	}
	var all []Hop
	for i := range sources {
		done, err := c.hopsFrom(ctx, &sources[i], wanted)
		if err != nil {
			return nil, err
		}
		all = append(all, done...)
	}
	return all, nil
}

func (c *Cluster) hopsFrom(ctx context.Context, source *corev1.Pod, wanted []Hop) ([]Hop, error) {
	var script strings.Builder
	for _, hop := range wanted {
		fmt.Fprintf(&script, "curl -g -s --max-time 15 -w ' %%{time_total}\\n' http://%s/clientip || echo 'none 0'\n", hop.Target)
	}
	out, err := c.Exec(ctx, source, "bash", "-c", script.String())
	if err != nil {
		return nil, err
	}
	lines := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return !strings.Contains(line, " ") || strings.HasPrefix(line, " ") })
	if len(lines) != len(wanted) {
		return nil, fmt.Errorf("probe %s answered %d of %d requests: %q", source.Name, len(lines), len(wanted), out)
	}
	hops := slices.Clone(wanted)
	for i, line := range lines {
		hops[i].From = source.Name
		hops[i].Seen, hops[i].Took = parseAnswer(line)
	}
	return hops, nil
}

// parseAnswer reads "ADDR:PORT SECONDS" as netexec's clientip and curl print it.
func parseAnswer(line string) (netip.Addr, time.Duration) {
	answer, seconds, _ := strings.Cut(strings.TrimSpace(line), " ")
	seen, err := netip.ParseAddrPort(answer)
	if err != nil {
		return netip.Addr{}, 0
	}
	took, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return netip.Addr{}, 0
	}
	return seen.Addr().Unmap(), time.Duration(took * float64(time.Second))
}

// Addresses of a Pod, by the order in which Kubernetes gives them.
func Addresses(pod *corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// PodNamespace is a file of the Pod's network namespace, /proc/PID/ns/net of one of its processes on this machine.
func (c *Cluster) PodNamespace(ctx context.Context, pod *corev1.Pod) (string, error) {
	link, err := c.Exec(ctx, pod, "readlink", "/proc/self/ns/net")
	if err != nil {
		return "", fmt.Errorf("find the network namespace of Pod %s: %w", pod.Name, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return "", err
	}
	for _, path := range processes {
		if its, err := os.Readlink(path); err == nil && its == strings.TrimSpace(link) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no process is in the network namespace %s of Pod %s", link, pod.Name)
}
