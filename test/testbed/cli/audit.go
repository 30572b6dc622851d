package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/test/testbed/audit"
	"github.com/weftnet/weftnet/test/testbed/cluster"
)

func audits() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Watch the underlay for Pod and mesh addresses in the clear",
		Long: "Watches every frame on the underlay. `stop` and `report` print what was seen and end with an error when\n" +
			"anything crossed in the clear, or when the audit cannot vouch for it.",
	}
	var asJSON bool
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.AddCommand(&cobra.Command{
		Use: "start", Short: "Start to watch, in the background", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error { return c.BeginAudit(ctx) }),
	}, &cobra.Command{
		Use: "stop", Short: "Stop to watch, and report", Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error {
			r, err := c.EndAudit(ctx)
			if err != nil {
				return err
			}
			return printReport(r, asJSON)
		}),
	}, &cobra.Command{
		Use: "report", Short: "Report, and go on watching", Args: cobra.NoArgs,
		RunE: run(func(_ context.Context, c *cluster.Cluster, _ []string) error {
			r, err := c.AuditReport()
			if err != nil {
				return err
			}
			return printReport(r, asJSON)
		}),
	})
	return cmd
}

func printReport(r audit.Report, asJSON bool) error {
	if !asJSON {
		fmt.Print(r)
		return r.Err()
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return r.Err()
}

// auditRun is the process behind `audit start`.
func auditRun() *cobra.Command {
	return &cobra.Command{
		Use: cluster.AuditCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: run(func(ctx context.Context, c *cluster.Cluster, _ []string) error { return c.RunAudit(ctx) }),
	}
}
