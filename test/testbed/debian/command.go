package debian

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Command returns `testbed deps`.
func Command() *cobra.Command {
	var check bool
	o := Options{Purposes: []string{Cluster}}
	cmd := &cobra.Command{
		Use:          "deps",
		Short:        "Install missing prerequisites from Debian, or say what is missing",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = cmd.ErrOrStderr()
			if check {
				return report(cmd, o.Purposes)
			}
			return Ensure(cmd.Context(), o)
		},
	}
	cmd.Flags().StringSliceVar(&o.Purposes, "for", o.Purposes, "what for: "+strings.Join(Purposes(), ", "))
	cmd.Flags().BoolVar(&check, "check", false, "install nothing, only list what is there and what is missing")
	return cmd
}

func report(cmd *cobra.Command, purposes []string) error {
	all, err := Needs(purposes...)
	if err != nil {
		return err
	}
	missing := Missing(all, present)
	for _, n := range all {
		state := "ok"
		for _, m := range missing {
			if m == n {
				state = "missing"
			}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-18s %s\n", state, n.Package, n.For)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d prerequisites are missing", len(missing), len(all))
	}
	return nil
}
