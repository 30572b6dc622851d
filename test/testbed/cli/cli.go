// Package cli is the testbed's command line.
package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/test/testbed/cluster"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// Run runs the command line and gives the exit status.
func Run(extra ...*cobra.Command) int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	root := &cobra.Command{
		Use:           "testbed",
		Short:         "A real Kubernetes cluster on one machine, each node in namespaces of its own",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(extra...)
	root.AddCommand(up(), down(), status(), load(), nodes(), reboot(), waitReady(), execute(), faults(), audits(), nodeInit(), auditRun())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// run opens the cluster for a command.
func run(f func(ctx context.Context, c *cluster.Cluster, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := cluster.Open(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

func up() *cobra.Command {
	var options record.Options
	var sysctls []string
	var family string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the cluster up, or complete it after a crash",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().IntVar(&options.Nodes, "nodes", 3, "number of nodes; the first also carries the control plane")
	cmd.Flags().StringVar(&options.Proxy, "proxy", record.KubeProxy, "service proxy: kube-proxy (nftables mode) or none")
	cmd.Flags().StringVar(&options.CNI, "cni", record.None, "network: none, or ptp for the reference plugins with static routes")
	cmd.Flags().StringVar(&family, "ip-family", "dual", "address families: dual, ipv4 or ipv6")
	cmd.Flags().StringArrayVar(&sysctls, "sysctl", nil, "kernel parameter of every node's network namespace, as key=value; may be repeated")
	cmd.Flags().BoolVar(&options.StorageLimits, "storage-limits", false, "evict Pods above their limit of ephemeral storage, which kubelets have to measure for that")
	cmd.RunE = run(func(ctx context.Context, c *cluster.Cluster, _ []string) error {
		var err error
		if options.Family, err = layout.ParseFamily(family); err != nil {
			return err
		}
		if options.Sysctls, err = keyValues(sysctls); err != nil {
			return err
		}
		if err := c.Up(ctx, options); err != nil {
			return err
		}
		fmt.Printf("\nThe cluster is up.  export KUBECONFIG=%s\n", c.Layout.Kubeconfig())
		if options.CNI == record.None {
			fmt.Println("Its nodes become ready once a network is installed; `testbed wait-ready` waits for that.")
		}
		return nil
	})
	return cmd
}

func keyValues(texts []string) (map[string]string, error) {
	var out map[string]string
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("sysctl %q: want key=value", text)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	return out, nil
}

func down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take the cluster down and leave the machine as it was", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error { return c.Down(ctx) }),
	}
}

func load() *cobra.Command {
	return &cobra.Command{
		Use: "load ARCHIVE...", Short: "Load image archives into every node", Args: cobra.MinimumNArgs(1),
		RunE: run(func(ctx context.Context, c *cluster.Cluster, args []string) error { return c.Load(ctx, args) }),
	}
}

func waitReady() *cobra.Command {
	timeout := 3 * time.Minute
	cmd := &cobra.Command{Use: "wait-ready", Short: "Wait until every node and CoreDNS are ready", Args: cobra.NoArgs}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait")
	cmd.RunE = run(func(ctx context.Context, c *cluster.Cluster, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return c.WaitReady(ctx)
	})
	return cmd
}

func nodes() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Add and remove nodes"}
	cmd.AddCommand(&cobra.Command{
		Use: "add", Short: "Add a node and print its name", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error {
			n, err := c.AddNode(ctx)
			if err == nil {
				fmt.Println(n)
			}
			return err
		}),
	}, &cobra.Command{
		Use: "remove NODE", Short: "Remove a node and its disk", Args: cobra.ExactArgs(1), RunE: onNode((*cluster.Cluster).RemoveNode),
	})
	return cmd
}

func reboot() *cobra.Command {
	return &cobra.Command{
		Use: "reboot NODE", Short: "Reboot a node: its processes, /run and network end, its disk is kept",
		Args: cobra.ExactArgs(1), RunE: onNode((*cluster.Cluster).Reboot),
	}
}

// onNode runs a function on the node named by the only argument.
func onNode(f func(*cluster.Cluster, context.Context, layout.Node) error) func(*cobra.Command, []string) error {
	return run(func(ctx context.Context, c *cluster.Cluster, args []string) error {
		n, err := layout.ParseNode(args[0])
		if err != nil {
			return err
		}
		return f(c, ctx, n)
	})
}

func execute() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- COMMAND...", Short: "Run a command inside a node's namespaces", Args: cobra.MinimumNArgs(2),
		RunE: run(func(_ context.Context, c *cluster.Cluster, args []string) error {
			command, err := c.Enter(args[0], args[1:]...)
			if err != nil {
				return err
			}
			path, err := exec.LookPath(command[0])
			if err != nil {
				return fmt.Errorf("find nsenter: %w", err)
			}
			env := append(os.Environ(), "PATH="+c.Layout.BinDir()+":"+os.Getenv("PATH"))
			return syscall.Exec(path, command, env)
		}),
	}
}

func status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs, and the faults in force", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error {
			lines, err := c.Status(ctx)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			for _, line := range lines {
				fmt.Fprintln(w, strings.Join(line, "\t"))
			}
			return w.Flush()
		}),
	}
}

// nodeInit is what a node's first process runs.
func nodeInit() *cobra.Command {
	return &cobra.Command{
		Use: node.InitCommand + " PLAN", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return node.RunInit(args[0]) },
	}
}
