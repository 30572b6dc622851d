package cli

import "github.com/spf13/cobra"

func audits() *cobra.Command {
	return &cobra.Command{Use: "audit", Short: "Watch the underlay for packets in the clear"}
}
