package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/test/testbed/cluster"
	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

func faults() *cobra.Command {
	cmd := &cobra.Command{Use: "fault", Short: "Make and heal faults"}
	cmd.AddCommand(
		cut(), loss(), heal(), link(), nat(), move(), api(),
		process("kill", "Kill a program's processes", syscall.SIGKILL),
		process("terminate", "Ask a program's processes to end", syscall.SIGTERM),
		process("pause", "Hold a program's processes", syscall.SIGSTOP),
		process("resume", "Let held processes go on", syscall.SIGCONT),
	)
	return cmd
}

func cut() *cobra.Command {
	var oneWay, udp bool
	cmd := &cobra.Command{Use: "cut NODE NODE", Short: "Drop packets between two nodes", Args: cobra.ExactArgs(2)}
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "only from the first to the second")
	cmd.Flags().BoolVar(&udp, "udp", false, "only UDP, and with it WireGuard")
	cmd.RunE = run(func(_ context.Context, c *cluster.Cluster, args []string) error {
		a, b, err := pair(args)
		if err != nil {
			return err
		}
		return c.Fault(fault.Pair(a, b, oneWay, udp, fault.Cut)...)
	})
	return cmd
}

func loss() *cobra.Command {
	var percent float64
	var udp, oneWay bool
	cmd := &cobra.Command{
		Use: "loss --percent P NODE [NODE]", Short: "Lose a share of the packets of a node, or between two", Args: cobra.RangeArgs(1, 2),
	}
	cmd.Flags().Float64Var(&percent, "percent", 0, "share of packets to drop")
	cmd.Flags().BoolVar(&udp, "udp", false, "only UDP")
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "only from the first, or what the only node sends")
	cmd.RunE = run(func(_ context.Context, c *cluster.Cluster, args []string) error {
		if len(args) == 1 {
			args = append(args, "any")
		}
		a, b, err := pair(args)
		if err != nil {
			return err
		}
		return c.Fault(fault.Pair(a, b, oneWay, udp, percent)...)
	})
	return cmd
}

func heal() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "heal [NODE NODE]", Short: "Heal the faults between two nodes, or --all of every kind", Args: cobra.MaximumNArgs(2)}
	cmd.Flags().BoolVar(&all, "all", false, "every fault: packets, links, NATs, addresses, held processes, the API server")
	cmd.RunE = run(func(ctx context.Context, c *cluster.Cluster, args []string) error {
		if all {
			return c.HealAll(ctx)
		}
		if len(args) != 2 {
			return errors.New("heal: name two nodes (or a node and `any`), or give --all")
		}
		a, b, err := pair(args)
		if err != nil {
			return err
		}
		return c.Heal(fault.Between(a, b))
	})
	return cmd
}

// pair reads two sides; `any` stands for all.
func pair(args []string) (a, b layout.Node, err error) {
	sides := make([]layout.Node, 2)
	for i, name := range args {
		if name == "any" {
			continue
		}
		if sides[i], err = layout.ParseNode(name); err != nil {
			return 0, 0, err
		}
	}
	return sides[0], sides[1], nil
}

func link() *cobra.Command {
	return &cobra.Command{
		Use: "link NODE up|down", Short: "Take a node's cable out, or put it back", Args: cobra.ExactArgs(2), ValidArgs: []string{"up", "down"},
		RunE: run(func(_ context.Context, c *cluster.Cluster, args []string) error {
			n, err := layout.ParseNode(args[0])
			if err != nil {
				return err
			}
			if args[1] != "up" && args[1] != "down" {
				return fmt.Errorf("link %q: want up or down", args[1])
			}
			return c.SetLink(n, args[1] == "up")
		}),
	}
}

func nat() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{Use: "nat NODE plain|symmetric|off", Short: "Put a NAT router in front of a node, or take it away", Args: cobra.ExactArgs(2)}
	cmd.Flags().DurationVar(&timeout, "udp-timeout", 0, "forget idle UDP flows so soon; keepalives from outside keep none open")
	cmd.RunE = run(func(_ context.Context, c *cluster.Cluster, args []string) error {
		n, err := layout.ParseNode(args[0])
		if err != nil {
			return err
		}
		if args[1] == "off" {
			return c.RemoveNAT(n)
		}
		return c.AddNAT(n, args[1], timeout)
	})
	return cmd
}

func move() *cobra.Command {
	return &cobra.Command{
		Use: "move NODE away|home", Short: "Give a node other addresses on the underlay, or its own back", Args: cobra.ExactArgs(2), ValidArgs: []string{"away", "home"},
		RunE: run(func(_ context.Context, c *cluster.Cluster, args []string) error {
			n, err := layout.ParseNode(args[0])
			if err != nil {
				return err
			}
			if args[1] != "away" && args[1] != "home" {
				return fmt.Errorf("move %q: want away or home", args[1])
			}
			return c.Move(n, args[1] == "away")
		}),
	}
}

func api() *cobra.Command {
	return &cobra.Command{
		Use: "api stop|start", Short: "Stop or start the API server", Args: cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, c *cluster.Cluster, args []string) error {
			switch args[0] {
			case "stop":
				return c.StopAPI(ctx)
			case "start":
				return c.StartAPI(ctx)
			default:
				return fmt.Errorf("api %q: want stop or start", args[0])
			}
		}),
	}
}

func process(verb, short string, sig syscall.Signal) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use: verb + " agent|operator|wireguard|PROGRAM", Short: short + ", on all nodes or on some", Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringSliceVar(&names, "node", nil, "only on these nodes")
	cmd.RunE = run(func(_ context.Context, c *cluster.Cluster, args []string) error {
		var nodes []layout.Node
		for _, name := range names {
			n, err := layout.ParseNode(name)
			if err != nil {
				return err
			}
			nodes = append(nodes, n)
		}
		count, err := c.Signal(nodes, fault.Program(args[0]), sig)
		if err == nil {
			fmt.Printf("%s: %d processes\n", sig, count)
		}
		return err
	})
	return cmd
}
