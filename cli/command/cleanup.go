package command

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/cli/cleanup"
	"github.com/weftnet/weftnet/version"
)

// everywhere holds the flags of a task that can run on all nodes.
type everywhere struct {
	all        bool
	pullPolicy string
	cluster    cleanup.Cluster
}

func (e *everywhere) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&e.all, "all-nodes", false, "clean every node of the cluster, by a Job on each")
	flags.StringVar(&e.cluster.Namespace, "namespace", "kube-system", "with --all-nodes: namespace of the Jobs; it must allow privileged Pods")
	flags.StringVar(&e.cluster.Image, "image", "weftnet.io/weft:"+version.Version, "with --all-nodes: image of the Jobs")
	flags.StringVar(&e.pullPolicy, "image-pull-policy", string(corev1.PullIfNotPresent), "with --all-nodes: pull policy of the image")
	flags.DurationVar(&e.cluster.Timeout, "timeout", 5*time.Minute, "with --all-nodes: how long to wait for all of them")
}

// task is one that can be done here, too.
type task interface {
	cleanup.Task
	Run(ctx context.Context, w io.Writer) error
}

func (e *everywhere) run(cmd *cobra.Command, a *access, t task) error {
	if !e.all {
		return t.Run(cmd.Context(), cmd.OutOrStdout())
	}
	_, kube, err := a.clients()
	if err != nil {
		return err
	}
	e.cluster.Kube, e.cluster.Task, e.cluster.PullPolicy = kube, t, corev1.PullPolicy(e.pullPolicy)
	return e.cluster.Run(cmd.Context(), cmd.OutOrStdout())
}

func cleanupCommand(a *access) *cobra.Command {
	var node cleanup.Node
	var on everywhere
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what Weftnet has left on this node, or on all nodes",
		Long: "Remove the links, routes, rules, nftables tables, CNI plugin and configuration that Weftnet made on this\n" +
			"node. Run it as root after `helm uninstall`; with --all-nodes it runs as a Job on every node of the cluster\n" +
			"instead. Every Pod that is still on the node loses its network. The node's key and address records stay,\n" +
			"unless --state is given. Forwarding (net.ipv4.ip_forward and its IPv6 sibling) stays on, since others need it.",
		Example: "  helm uninstall weftnet -n weftnet-system\n  weft cleanup --all-nodes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return on.run(cmd, a, node) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&node.State, "state", false, "remove the node's key, address records and peer cache too")
	flags.BoolVar(&node.DryRun, "dry-run", false, "only tell what would be removed")
	flags.BoolVar(&node.Force, "force", false, "go on although the agent is running")
	flags.DurationVar(&node.Patience, "patience", 30*time.Second, "how long to wait for agent and tunnel to end")
	flags.StringVar(&node.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "the node's folder of CNI plugins")
	flags.StringVar(&node.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "the node's folder of CNI configuration")
	flags.StringVar(&node.Root, "root", "/", "where the node's file system is mounted")
	on.addFlags(cmd)
	cmd.AddCommand(kubeProxyCommand(a))
	return cmd
}

func kubeProxyCommand(a *access) *cobra.Command {
	var proxy cleanup.KubeProxy
	var on everywhere
	cmd := &cobra.Command{
		Use:   "kube-proxy",
		Short: "Remove what kube-proxy has left in the kernel of this node, or of all nodes",
		Long: "Remove kube-proxy's rules once Weftnet's own service proxy serves the cluster and kube-proxy has ended: its\n" +
			"nftables tables, its chains in the tables of iptables-nft and the link of its IPVS mode. Nothing else is touched,\n" +
			"and connections that are established go on. What cannot be removed over netlink (legacy iptables, IPVS's\n" +
			"virtual servers) is named. Refused while kube-proxy answers on the node, and where Weftnet's rules for Services\n" +
			"are not in force, unless --force is given.",
		Example: "  weft cleanup kube-proxy --all-nodes --dry-run\n  kubectl -n kube-system delete daemonset kube-proxy\n  weft cleanup kube-proxy --all-nodes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return on.run(cmd, a, proxy) },
	}
	cmd.Flags().BoolVar(&proxy.DryRun, "dry-run", false, "only tell what would be removed")
	cmd.Flags().BoolVar(&proxy.Force, "force", false, "go on although kube-proxy runs, or Weftnet's rules for Services are missing")
	cmd.Flags().DurationVar(&proxy.Patience, "patience", 0, "how long to wait for kube-proxy to end and for Weftnet's rules to be in force")
	on.addFlags(cmd)
	return cmd
}
