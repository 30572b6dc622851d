package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kernelproxy "github.com/weftnet/weftnet/agent/kernel/kubeproxy"
	"github.com/weftnet/weftnet/agent/kernel/probe"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/cli/check"
	"github.com/weftnet/weftnet/cli/cleanup"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func checkCommand(a *access) *cobra.Command {
	var onNode bool
	var pools []string
	var apiServer string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check whether the cluster, or this node, can carry Weftnet",
		Long: "Check the cluster: its version, the nodes' addresses, other networks and the Pods that they left, and whether the address pools overlap\n" +
			"the Service CIDRs or the nodes. Before the installation, --pool names the ranges to be used.\n" +
			"With --node, check this node as root instead: what its kernel can do, each thing by really trying it in a\n" +
			"namespace of its own, and whether it reaches the API server.",
		Example: "  weft check\n  weft check --node --api-server=10.0.0.1:6443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var results []check.Result
			var err error
			if onNode {
				results = append(check.Node(probe.Features(cmd.Context())), lookForKubeProxy(cmd.Context()))
			} else if results, err = checkCluster(cmd.Context(), a, pools); err != nil {
				return err
			}
			if apiServer != "" {
				results = append(results, reach(cmd.Context(), apiServer))
			}
			return writeResults(cmd.OutOrStdout(), results)
		},
	}
	cmd.Flags().BoolVar(&onNode, "node", false, "check this node's kernel instead of the cluster (needs root)")
	cmd.Flags().StringSliceVar(&pools, "pool", nil, "ranges to check (default: those of the installed pools, else the chart's)")
	cmd.Flags().StringVar(&apiServer, "api-server", "", "host:port that agents are to use; checks that it can be reached from here")
	return cmd
}

// chartPools are the pools in the chart's default values.
var chartPools = []string{"10.244.0.0/16", "fd00:10:244::/48"}

func checkCluster(ctx context.Context, a *access, pools []string) ([]check.Result, error) {
	objects, kube, err := a.clients()
	if err != nil {
		return nil, err
	}
	cluster, err := gather(ctx, kube)
	if err != nil {
		return nil, err
	}
	nodes, err := meshNodes(ctx, objects)
	if err != nil {
		return nil, err
	}
	cluster.KubeProxies, cluster.Blocks = kubeProxies(nodes), blocks(nodes)
	if cluster.Pools = pools; len(pools) == 0 {
		if cluster.Pools, err = installedPools(ctx, objects); err != nil {
			return nil, err
		}
	}
	return cluster.Results(), nil
}

func gather(ctx context.Context, kube kubernetes.Interface) (check.Cluster, error) {
	var c check.Cluster
	server, err := kube.Discovery().ServerVersion()
	if err != nil {
		return c, fmt.Errorf("ask the API server for its version: %w", err)
	}
	c.Version = server.GitVersion
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return c, fmt.Errorf("list Nodes: %w", err)
	}
	c.Nodes = nodes.Items
	services, err := kube.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return c, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	for i := range services.Items {
		c.ServiceCIDRs = append(c.ServiceCIDRs, services.Items[i].Spec.CIDRs...)
	}
	pods, err := kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return c, fmt.Errorf("list Pods: %w", err)
	}
	c.Pods = pods.Items
	daemons, err := kube.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return c, fmt.Errorf("list DaemonSets: %w", err)
	}
	for i := range daemons.Items {
		c.DaemonSets = append(c.DaemonSets, daemons.Items[i].Namespace+"/"+daemons.Items[i].Name)
	}
	return c, nil
}

// meshNodes are those of the cluster; none where Weftnet is not installed yet.
func meshNodes(ctx context.Context, objects client.Client) ([]v1alpha1.MeshNode, error) {
	var nodes v1alpha1.MeshNodeList
	switch err := objects.List(ctx, &nodes); {
	case meta.IsNoMatchError(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list MeshNodes: %w", err)
	}
	return nodes.Items, nil
}

// kubeProxies are what the agents tell in their conditions.
func kubeProxies(nodes []v1alpha1.MeshNode) []string {
	var seen []string
	for i := range nodes {
		c := meta.FindStatusCondition(nodes[i].Status.Conditions, v1alpha1.ConditionKubeProxyPresent)
		if c != nil && c.Status == metav1.ConditionTrue {
			seen = append(seen, nodes[i].Name+": "+c.Message)
		}
	}
	return seen
}

// blocks are the Pod CIDRs of each node.
func blocks(nodes []v1alpha1.MeshNode) map[string][]string {
	out := map[string][]string{}
	for i := range nodes {
		out[nodes[i].Name] = nodes[i].Spec.PodCIDRs
	}
	return out
}

// lookForKubeProxy looks on this node.
func lookForKubeProxy(ctx context.Context) check.Result {
	f, err := kernelproxy.New()
	if err != nil {
		return check.Result{Name: "kube-proxy", Answer: check.Unknown, Text: err.Error(), Do: "run this as root"}
	}
	defer func() { _ = f.Close() }()
	found, err1 := kubeproxy.Look(ctx, f)
	ours, err2 := f.HasTable(cleanup.ServiceTable)
	if err := errors.Join(err1, err2); err != nil {
		return check.Result{Name: "kube-proxy", Answer: check.Unknown, Text: err.Error(), Do: "run this as root"}
	}
	return check.KubeProxy(found, ours)
}

// installedPools are the ranges of the IPPools, or the chart's where Weftnet is not installed yet.
func installedPools(ctx context.Context, objects client.Client) ([]string, error) {
	var pools v1alpha1.IPPoolList
	switch err := objects.List(ctx, &pools); {
	case meta.IsNoMatchError(err):
		return chartPools, nil
	case err != nil:
		return nil, fmt.Errorf("list IPPools: %w", err)
	}
	var ranges []string
	for i := range pools.Items {
		for _, r := range pools.Items[i].Spec.CIDRs {
			ranges = append(ranges, r.CIDR)
		}
	}
	return ranges, nil
}

// reach opens a TCP connection, which is all that the agent's way to the API server asks of the network.
func reach(ctx context.Context, address string) check.Result {
	r := check.Result{Name: "API server " + address, Do: "the chart's apiServer.host and apiServer.port must be reachable from every node without Weftnet"}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		r.Answer, r.Text = check.Bad, err.Error()
		return r
	}
	_ = conn.Close()
	r.Answer, r.Text = check.Good, "reached from here"
	return r
}

func writeResults(w io.Writer, results []check.Result) error {
	slices.SortStableFunc(results, func(a, b check.Result) int { return int(a.Answer) - int(b.Answer) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Answer, r.Name, r.Text)
		if r.Answer != check.Good {
			fmt.Fprintf(t, "\t\tto do: %s\n", r.Do)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if check.Failed(results) {
		return ErrFound
	}
	return nil
}
