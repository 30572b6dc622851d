//go:build e2e

package service

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/kubeproxy"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// TestZTakeOverFromKubeProxy has a live cluster go over to kube-proxy, and back: kube-proxy is started beside
// Weftnet's service proxy, that is switched off and on again, kube-proxy is ended and its rules are removed. Connections
// go on, whoever has translated them, and at no moment does a new one fail. It comes last, since it sets the chart anew twice.
//
// One of the two is always there. An attempt that nobody has translated stays in connection tracking for two minutes, and a
// connection that is given its port meanwhile is not translated either: kube-proxy's rules refuse it.
func TestZTakeOverFromKubeProxy(t *testing.T) {
	s := makeService(t, "taken", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	var aims []aim
	for family, ip := range clusterIPs(s) {
		for _, from := range insiders(t) {
			aims = append(aims, aim{from, netip.AddrPortFrom(ip, portTCP)})
		}
		aims = append(aims, aim{outsidePlace(t, 1+family), netip.AddrPortFrom(nodeAddrs(0)[family], nodePort(s, corev1.ProtocolTCP))})
	}
	var lines []*line
	open := func() {
		for _, a := range aims {
			reaches(t, a.from, corev1.ProtocolTCP, a.to, allPods()...)
			lines = append(lines, openLine(t, a))
		}
	}
	open()
	proxies := startKubeProxies(t)
	awaitKubeProxies(t, s)
	began := time.Now()
	l := startLoad(t, 100, aims)
	l.note("kube-proxy runs; the chart is set to have no service proxy")
	setProxy(t, false)
	open()
	l.note("the chart is set to have the service proxy")
	setProxy(t, true)
	l.note("every node has the service table")
	awaitFinding(t, metav1.ConditionTrue, "KubeProxyRunning")
	l.note("every node tells of kube-proxy; kube-proxy is ended")
	for _, p := range proxies {
		p.Stop(t)
	}
	l.note("no kube-proxy runs")
	awaitFinding(t, metav1.ConditionTrue, "KubeProxyRulesLeft")
	l.note("every node tells of the rules that are left; the dry run begins")
	if out, err := weft(t, "cleanup", "kube-proxy", "--all-nodes", "--dry-run", "--namespace", harness.Namespace); err != nil || !strings.Contains(out, "would remove table ip kube-proxy") {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	l.note("the cleanup begins")
	out, err := weft(t, "cleanup", "kube-proxy", "--all-nodes", "--namespace", harness.Namespace)
	if err != nil {
		t.Errorf("cleanup: %v", err)
	}
	t.Log(out)
	l.note("the cleanup has ended")
	awaitFinding(t, metav1.ConditionFalse, "NoKubeProxy")
	l.note("no node has anything of kube-proxy")
	for _, line := range lines {
		line.stillAnswers(t)
	}
	l.end(t, 100, time.Since(began))
	for node := range probes.Hosts {
		if out, err := onNode(t, node, "nft", "list", "tables"); err != nil || strings.Contains(out, "kube-proxy") {
			t.Errorf("node %d has the tables %s: %v", node+1, out, err)
		}
	}
}

// setProxy switches Weftnet's service proxy on or off and waits until every agent runs with it.
func setProxy(t *testing.T, on bool) {
	t.Helper()
	t.Cleanup(func() {
		if err := cluster.Upgrade(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := cluster.Upgrade(t.Context(), "--set", fmt.Sprintf("serviceProxy.enabled=%t", on)); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), 3*time.Minute, fmt.Sprintf("the service table is there: %t", on), func(context.Context) error {
		for node := range probes.Hosts {
			out, err := onNode(t, node, "nft", "list", "tables")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if strings.Contains(out, table) != on {
				return fmt.Errorf("node %d has the tables %q", node+1, out)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func startKubeProxies(t *testing.T) []*kubeproxy.Proxy {
	t.Helper()
	var out []*kubeproxy.Proxy
	for node, host := range probes.Hosts {
		out = append(out, kubeproxy.Start(t, nodePlace(t, node).ns, kubeproxy.Config{
			Bin: filepath.Join(cluster.Root, ".testbed", "bin"), Node: host.Spec.NodeName, Mode: "nftables",
			Kubeconfig: filepath.Join(cluster.Root, ".testbed", "kubeconfig"), ClusterCIDR: podCIDRs(),
		}))
	}
	return out
}

// awaitKubeProxies waits until the rules of kube-proxy know a Service on every node, in both families.
func awaitKubeProxies(t *testing.T, s *corev1.Service) {
	t.Helper()
	err := harness.Eventually(t.Context(), 2*time.Minute, "every kube-proxy knows the Service", func(context.Context) error {
		for node := range probes.Hosts {
			for family, ip := range clusterIPs(s) {
				out, err := onNode(t, node, "nft", "list", "map", []string{"ip", "ip6"}[family], "kube-proxy", "service-ips")
				if err != nil {
					return fmt.Errorf("node %d: %w: %s", node+1, err, out)
				}
				if !strings.Contains(out, ip.String()+" . tcp") {
					return fmt.Errorf("node %d: %s is not among %s", node+1, ip, out)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func podCIDRs() string {
	var texts []string
	for _, p := range layout.PodCIDRs(layout.Dual) {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// awaitFinding waits until every node tells so about kube-proxy.
func awaitFinding(t *testing.T, status metav1.ConditionStatus, reason string) {
	t.Helper()
	err := harness.Eventually(t.Context(), 2*time.Minute, "every node says "+reason, func(ctx context.Context) error {
		var all v1alpha1.MeshNodeList
		if err := cluster.Mesh.List(ctx, &all); err != nil {
			return err
		}
		for _, n := range all.Items {
			c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionKubeProxyPresent)
			if c == nil || c.Status != status || c.Reason != reason {
				return fmt.Errorf("%s says %+v", n.Name, c)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func weft(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	if _, err := harness.Command(t.Context(), cluster.Root, nil, "go", "build", "-o", bin, "./cli"); err != nil {
		t.Fatal(err)
	}
	return harness.Command(t.Context(), cluster.Root, nil, bin, args...)
}

// line is a connection that is kept.
type line struct {
	aim
	answers *bufio.Reader
	write   func(string) error
}

// openLine keeps a connection of HTTP 1.1 open.
func openLine(t *testing.T, a aim) *line {
	t.Helper()
	c, err := a.from.dial(t, "tcp", a.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &line{aim: a, answers: bufio.NewReader(c)}
	l.write = func(text string) error {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Write([]byte(text))
		return err
	}
	l.stillAnswers(t)
	return l
}

func (l *line) stillAnswers(t *testing.T) {
	t.Helper()
	err := l.write("HEAD /hostname HTTP/1.1\r\nHost: probe\r\n\r\n")
	for err == nil {
		var text string
		if text, err = l.answers.ReadString('\n'); strings.TrimSpace(text) == "" {
			break // the end of an answer without a body
		}
	}
	if err != nil {
		t.Errorf("the connection of %s to %s has broken: %v", l.from.name, l.to, err)
	}
}
