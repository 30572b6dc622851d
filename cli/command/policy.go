package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/cli/policy"
)

func policyCommand(a *access) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Ask what network policies do, and why"}
	cmd.AddCommand(policyExplainCommand(a))
	return cmd
}

// policyQuestion is what the flags say.
type policyQuestion struct {
	from, to, protocol, output, pod, procSysNet string
	node                                        bool
}

func policyExplainCommand(a *access) *cobra.Command {
	var q policyQuestion
	cmd := &cobra.Command{
		Use:   "explain --from NAMESPACE/POD|IP --to NAMESPACE/POD:PORT|IP:PORT",
		Short: "Say whether policies let one Pod reach another, and which of them decided",
		Long: "Say whether policies let a first packet pass, and which policy, rule and tier decided at each end. It reads\n" +
			"the cluster's objects and asks the evaluator that the nodes' rules are compiled from; either end may be an\n" +
			"address. The exit status is 1 when it is denied.\n" +
			"With --node, show instead what this node's kernel enforces for its Pods, and what it has counted (needs root).",
		Example: "  weft policy explain --from shop/web-0 --to shop/db-0:5432\n" +
			"  weft policy explain --from 203.0.113.7 --to shop/web-0:http\n" +
			"  weft policy explain --from shop/web-0 --to kube-system/coredns-abc:53 --protocol udp\n" +
			"  weft policy explain --node",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.output != "text" && q.output != "json" {
				return fmt.Errorf("--output %s: want text or json", q.output)
			}
			if q.node {
				return q.explainNode(cmd, a)
			}
			return q.explain(cmd, a)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.from, "from", "", "who sends: NAMESPACE/POD or an IP address")
	flags.StringVar(&q.to, "to", "", "to whom: NAMESPACE/POD:PORT or IP:PORT; a Pod's port may be a name")
	flags.StringVar(&q.protocol, "protocol", "tcp", "tcp, udp, sctp or icmp")
	flags.StringVarP(&q.output, "output", "o", "text", "text or json")
	flags.BoolVar(&q.node, "node", false, "show what this node's kernel enforces and counts (needs root)")
	flags.StringVar(&q.pod, "pod", "", "with --node: only this NAMESPACE/POD")
	flags.StringVar(&q.procSysNet, "proc-sys-net", "/proc/sys/net", "with --node: where the node's /proc/sys/net is")
	return cmd
}

func (q policyQuestion) explain(cmd *cobra.Command, a *access) error {
	if q.from == "" || q.to == "" {
		return errors.New("both --from and --to are needed, or --node")
	}
	question, err := policy.Ask(q.from, q.to, q.protocol)
	if err != nil {
		return err
	}
	cluster, err := gatherPolicies(cmd.Context(), a)
	if err != nil {
		return err
	}
	answer, err := policy.Explain(cluster, question)
	if err != nil {
		return err
	}
	if q.output == "json" {
		err = policy.WriteJSON(cmd.OutOrStdout(), answer)
	} else {
		err = answer.Write(cmd.OutOrStdout(), question)
	}
	if err == nil && !answer.Allowed {
		return ErrFound
	}
	return err
}

func gatherPolicies(ctx context.Context, a *access) (policy.Cluster, error) {
	objects, _, err := a.clients()
	if err != nil {
		return policy.Cluster{}, err
	}
	return policy.Gather(ctx, objects)
}

func (q policyQuestion) explainNode(cmd *cobra.Command, a *access) error {
	names := map[netip.Addr]string{}
	// Names are a courtesy: the node's counts must be told where no API server can be reached, too.
	if cluster, err := gatherPolicies(cmd.Context(), a); err == nil {
		names = cluster.Names()
	} else {
		cmd.PrintErrf("the names of Pods are not known: %v\n", err)
	}
	view, err := policy.LookAtNode(cmd.Context(), q.procSysNet, names)
	if err != nil {
		return err
	}
	if q.output == "json" {
		return policy.WriteJSON(cmd.OutOrStdout(), view)
	}
	return view.Write(cmd.OutOrStdout(), q.pod)
}
