//go:build e2e

// Package takeover installs Weftnet on a cluster that is wired by other plugins and has Pods. It has a cluster of its own,
// which it ends.
package takeover

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

const (
	nodes = 2
	// perNode Pods are made on each node while Weftnet is being installed.
	perNode   = 25
	makeEvery = time.Second
	newSet    = "app=made-meanwhile"
)

// ranges that the earlier plugin does not use: an address that an old Pod has must not be given again.
var ranges = []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/48")}

// TestFromAnotherPlugin : Pods of the reference plugins go on as they are, every Pod that is made while Weftnet comes is wholly
// of one network, the other's configuration is set aside, and `weft check` names what is left to do until it is done.
func TestFromAnotherPlugin(t *testing.T) {
	c := upWithPTP(t)
	old, err := c.StartProbes(t.Context(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	answered(t, c, old, "before")
	made := make(chan error, 1)
	go func() { made <- makePods(t.Context(), c) }()
	install(t, c)
	setAside(t, c)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	meanwhile, err := c.WaitPods(t.Context(), harness.ProbeNamespace, newSet, nodes*perNode, 4*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ofBoth := wholly(t, meanwhile)
	t.Logf("of the Pods made meanwhile %d are of the other network, %d of Weftnet", ofBoth[false], ofBoth[true])
	if ofBoth[true] == 0 {
		t.Error("none of them is Weftnet's: the installation took longer than they did")
	}
	answered(t, c, old, "beside Weftnet")
	out, err := weft(t, c, "check")
	for i := range old.Pods {
		if name := old.Pods[i].Name; err == nil || !strings.Contains(out, name) {
			t.Errorf("weft check does not name %s: %v\n%s", name, err, out)
		}
	}
	makeAnew(t, c)
	fresh, err := c.FindProbes(t.Context(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	if n := wholly(t, fresh.Pods); n[true] != nodes {
		t.Errorf("of the Pods made anew %d are Weftnet's", n[true])
	}
	answered(t, c, fresh, "after")
	if out, err := weft(t, c, "check"); err != nil {
		t.Errorf("weft check when all is done: %v\n%s", err, out)
	}
}

// upWithPTP has a cluster of two nodes with the reference plugins, in place of whatever cluster there was.
func upWithPTP(t *testing.T) *harness.Cluster {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	options := harness.Options{Nodes: nodes, CNI: "ptp", Out: os.Stderr}
	if err := harness.Build(t.Context(), root, options); err != nil {
		t.Fatal(err)
	}
	down := func(ctx context.Context) {
		if _, err := harness.Testbed(ctx, root, os.Stderr, "down"); err != nil {
			t.Error(err)
		}
	}
	down(t.Context())
	t.Cleanup(func() { down(context.Background()) })
	c, err := harness.Up(t.Context(), root, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.LoadImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func install(t *testing.T, c *harness.Cluster) {
	t.Helper()
	values := filepath.Join(t.TempDir(), "values.yaml")
	text := fmt.Sprintf("ipPools:\n- name: default\n  cidrs:\n  - {cidr: %q, blockSize: 24}\n  - {cidr: %q, blockSize: 64}\n", ranges[0], ranges[1])
	if err := os.WriteFile(values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Upgrade(t.Context(), "-f", values); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitNodes(t.Context(), nodes, 4*time.Minute); err != nil {
		t.Fatal(err)
	}
}

// setAside wants Weftnet's configuration on every node, and the other one kept for later.
func setAside(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for i := range nodes {
		dir := filepath.Join(c.Root, ".testbed", "nodes", fmt.Sprintf("tb-node%d", i+1), "etc-cni", "net.d")
		err := harness.Eventually(t.Context(), time.Minute, "Weftnet's configuration alone in "+dir, func(context.Context) error {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if want := []string{"05-weftnet.conflist", "10-baseline.conflist.weftnet-disabled"}; !slices.Equal(names, want) {
				return fmt.Errorf("it has %v, want %v", names, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// makePods makes Pods on every node, one after the other.
func makePods(ctx context.Context, c *harness.Cluster) error {
	ticker := time.NewTicker(makeEvery)
	defer ticker.Stop()
	for i := range nodes * perNode {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		none := int64(0)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("made-%d", i), Labels: map[string]string{"app": "made-meanwhile"}},
			Spec: corev1.PodSpec{
				NodeName: fmt.Sprintf("tb-node%d", 1+i%nodes), TerminationGracePeriodSeconds: &none,
				Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				Containers:  []corev1.Container{{Name: "agnhost", Image: harness.AgnhostImage, Args: []string{"pause"}, ImagePullPolicy: corev1.PullIfNotPresent}},
			},
		}
		if _, err := c.Client.CoreV1().Pods(harness.ProbeNamespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create Pod %s: %w", pod.Name, err)
		}
	}
	return nil
}

// wholly counts the Pods of Weftnet and of the other network. One with an address of each, or with one alone, is a fault.
func wholly(t *testing.T, pods []corev1.Pod) map[bool]int {
	t.Helper()
	count := map[bool]int{}
	for i := range pods {
		addresses := harness.Addresses(&pods[i])
		ours := 0
		for _, a := range addresses {
			if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }) {
				ours++
			}
		}
		if len(addresses) != 2 || ours == 1 {
			t.Errorf("Pod %s has the addresses %v", pods[i].Name, addresses)
		}
		count[ours == 2]++
	}
	return count
}

// answered wants every probe to reach every other with its own address.
func answered(t *testing.T, c *harness.Cluster, p *harness.Probes, when string) {
	t.Helper()
	hops, err := c.PodHops(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	own := map[string][]netip.Addr{}
	for i := range p.Pods {
		own[p.Pods[i].Name] = harness.Addresses(&p.Pods[i])
	}
	for _, h := range hops {
		if !slices.Contains(own[h.From], h.Seen) {
			t.Errorf("%s: %s to %s (%s) was seen as %v", when, h.From, h.To, h.Target, h.Seen)
		}
	}
}

// makeAnew deletes what the other network has wired, as a drain would.
func makeAnew(t *testing.T, c *harness.Cluster) {
	t.Helper()
	all, err := c.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range all.Items {
		p := &all.Items[i]
		if p.Spec.HostNetwork || slices.ContainsFunc(harness.Addresses(p), func(a netip.Addr) bool { return ranges[0].Contains(a) }) {
			continue
		}
		names = append(names, p.Name)
		if err := c.Client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	err = harness.Eventually(t.Context(), 2*time.Minute, "the old Pods gone", func(ctx context.Context) error {
		left, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range left.Items {
			if slices.Contains(names, left.Items[i].Name) {
				return fmt.Errorf("Pod %s is there", left.Items[i].Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func weft(t *testing.T, c *harness.Cluster, args ...string) (string, error) {
	t.Helper()
	return harness.Command(t.Context(), c.Root, nil, "go", append([]string{"run", "./cli"}, args...)...)
}
