package harness

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// Options say what cluster Ensure shall leave behind.
type Options struct {
	// Nodes in the cluster; 0 means 3.
	Nodes int
	// Proxy is what the testbed brings to serve Services: "none" (the default), which leaves it to
	// Weftnet, or "kube-proxy", beside which Weftnet's own is switched off.
	Proxy string
	// Family of the cluster's addresses; empty means both.
	Family layout.Family
	// CNI is the network that the testbed brings along: "none" (the default), or "ptp" for the reference plugins.
	CNI string
	// StorageLimits has Pods evicted that write more than they may.
	StorageLimits bool
	// Sets of the testbed's programs that are wanted besides those of the cluster itself.
	Sets []string
	// Helm holds further arguments for the chart, such as --set.
	Helm []string
	// Out receives the progress.
	Out io.Writer
}

func (o Options) withDefaults() Options {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Proxy == "" {
		o.Proxy = "none"
	}
	if o.Family == "" {
		o.Family = layout.Dual
	}
	if o.CNI == "" {
		o.CNI = record.None
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	return o
}

// Values are the arguments for the chart that fit the options.
func (o Options) Values() []string {
	o = o.withDefaults()
	var values []string
	if o.Proxy == record.KubeProxy {
		values = append(values, "--set", "serviceProxy.enabled=false")
	}
	if o.Family != layout.Dual {
		values = append(values, "--set-json", "ipPools="+pools(o.Family))
	}
	return append(values, o.Helm...)
}

// pools are the chart's pools for a cluster of one family: those of its defaults have both.
func pools(family layout.Family) string {
	var cidrs []string
	for _, prefix := range layout.PodCIDRs(family) {
		cidrs = append(cidrs, fmt.Sprintf(`{"cidr":%q}`, prefix))
	}
	return fmt.Sprintf(`[{"name":"default","cidrs":[%s]}]`, strings.Join(cidrs, ","))
}

// Build makes the programs of the testbed and Weftnet's images, from their caches where it can.
func Build(ctx context.Context, root string, options Options) error {
	options = options.withDefaults()
	args := append([]string{"build", "cluster"}, options.Sets...)
	if _, err := Testbed(ctx, root, options.Out, args...); err != nil {
		return fmt.Errorf("build the testbed's programs: %w", err)
	}
	// The testbed's own first: nodes take in at their start what is there, the probes' image among it.
	for _, images := range [][]string{{"images", "testbed"}, {"images"}} {
		if _, err := Testbed(ctx, root, options.Out, images...); err != nil {
			return fmt.Errorf("build the images: %w", err)
		}
	}
	return nil
}

// Up brings up a cluster that has no network yet, or finds it up.
func Up(ctx context.Context, root string, options Options) (*Cluster, error) {
	options = options.withDefaults()
	args := []string{
		"up", "--nodes=" + strconv.Itoa(options.Nodes), "--proxy=" + options.Proxy, "--ip-family=" + string(options.Family), "--cni=" + options.CNI,
		"--storage-limits=" + strconv.FormatBool(options.StorageLimits),
	}
	_, err := Testbed(ctx, root, options.Out, args...)
	if err != nil {
		return nil, fmt.Errorf("bring up the cluster: %w", err)
	}
	return Open(root, options.Out)
}

// Ensure builds what is missing, brings up the cluster, installs Weftnet and waits until every node
// is connected to every other. On a cluster that is so already it changes nothing.
func Ensure(ctx context.Context, root string, options Options) (*Cluster, error) {
	options = options.withDefaults()
	if err := Build(ctx, root, options); err != nil {
		return nil, err
	}
	cluster, err := Up(ctx, root, options)
	if err != nil {
		return nil, err
	}
	if err := cluster.Install(ctx, options.Values()...); err != nil {
		return nil, err
	}
	if err := cluster.WaitNodes(ctx, options.Nodes, 4*time.Minute); err != nil {
		return nil, err
	}
	return cluster, cluster.renewDNS(ctx)
}

const (
	dnsNamespace = "kube-system"
	dnsSelector  = "k8s-app=kube-dns"
	dnsPods      = 2
)

// renewDNS deletes the CoreDNS Pods that run and are not ready, and waits until all are: those that
// have outlived an earlier installation of Weftnet have lost their interfaces with it.
func (c *Cluster) renewDNS(ctx context.Context) error {
	pods, err := c.Client.CoreV1().Pods(dnsNamespace).List(ctx, metav1.ListOptions{LabelSelector: dnsSelector})
	if err != nil {
		return fmt.Errorf("list the Pods of CoreDNS: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase != corev1.PodRunning || podReady(pod) == nil {
			continue
		}
		if err := c.Client.CoreV1().Pods(dnsNamespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Pod %s: %w", pod.Name, err)
		}
	}
	_, err = c.WaitPods(ctx, dnsNamespace, dnsSelector, dnsPods, 2*time.Minute)
	return err
}
