package command

import (
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/cli/cleanup"
	"github.com/weftnet/weftnet/version"
)

func cleanupCommand(a *access) *cobra.Command {
	var node cleanup.Node
	var all bool
	cluster := cleanup.Cluster{}
	var pullPolicy string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what Weftnet has left on this node, or on all nodes",
		Long: "Remove the links, routes, rules, nftables table, CNI plugin and configuration that Weftnet made on this\n" +
			"node. Run it as root after `helm uninstall`; with --all-nodes it runs as a Job on every node of the cluster\n" +
			"instead. Every Pod that is still on the node loses its network. The node's key and address records stay,\n" +
			"unless --state is given. Forwarding (net.ipv4.ip_forward and its IPv6 sibling) stays on, since others need it.",
		Example: "  helm uninstall weftnet -n weftnet-system\n  weft cleanup --all-nodes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !all {
				return node.Run(cmd.Context(), cmd.OutOrStdout())
			}
			_, kube, err := a.clients()
			if err != nil {
				return err
			}
			cluster.Kube, cluster.Node, cluster.PullPolicy = kube, node, corev1.PullPolicy(pullPolicy)
			return cluster.Run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&node.State, "state", false, "remove the node's key, address records and peer cache too")
	flags.BoolVar(&node.DryRun, "dry-run", false, "only tell what would be removed")
	flags.BoolVar(&node.Force, "force", false, "go on although the agent is running")
	flags.DurationVar(&node.Patience, "patience", 30*time.Second, "how long to wait for agent and tunnel to end")
	flags.StringVar(&node.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "the node's folder of CNI plugins")
	flags.StringVar(&node.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "the node's folder of CNI configuration")
	flags.StringVar(&node.Root, "root", "/", "where the node's file system is mounted")
	flags.BoolVar(&all, "all-nodes", false, "clean every node of the cluster, by a Job on each")
	flags.StringVar(&cluster.Namespace, "namespace", "kube-system", "with --all-nodes: namespace of the Jobs; it must allow privileged Pods")
	flags.StringVar(&cluster.Image, "image", "weftnet.io/weft:"+version.Version, "with --all-nodes: image of the Jobs")
	flags.StringVar(&pullPolicy, "image-pull-policy", string(corev1.PullIfNotPresent), "with --all-nodes: pull policy of the image")
	flags.DurationVar(&cluster.Timeout, "timeout", 5*time.Minute, "with --all-nodes: how long to wait for all of them")
	return cmd
}
