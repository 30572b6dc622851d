package build

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Command returns `testbed build`.
func Command() *cobra.Command {
	var o Options
	var list bool
	cmd := &cobra.Command{
		Use:   "build [target or set]...",
		Short: "Build the testbed's programs from Go modules into .testbed/bin",
		Long: "Builds Kubernetes, etcd, containerd, CoreDNS, Helm and the rest from the modules pinned under tools/, or takes them from the cache.\n" +
			"Sets: " + strings.Join(Sets(), ", ") + ". Without arguments: everything but dev.",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Only = args
			o.Progress = cmd.ErrOrStderr()
			if list {
				return printTargets(cmd, args)
			}
			return Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Out, "out", "", "output directory (default .testbed/bin)")
	cmd.Flags().BoolVar(&list, "list", false, "only list the programs and where they come from")
	return cmd
}

func printTargets(cmd *cobra.Command, only []string) error {
	targets, err := Select(only)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSET\tMODULE\tPACKAGE")
	for _, t := range targets {
		fmt.Fprintf(w, "%s\t%s\ttools/%s\t%s\n", t.Name, t.Set, t.Module, t.Package)
	}
	return w.Flush()
}
