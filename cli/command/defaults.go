package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/cli/defaults"
)

func applyDefaultsCommand(a *access) *cobra.Command {
	var file string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:    "apply-defaults",
		Short:  "Apply the chart's pools and settings (the operator's first container runs this)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("read the defaults: %w", err)
			}
			objects, err := defaults.ParseBytes(text)
			if err != nil {
				return fmt.Errorf("read the defaults in %s: %w", file, err)
			}
			c, _, err := a.clients()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return defaults.Apply(ctx, c, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), objects)
		},
	}
	cmd.Flags().StringVar(&file, "file", "/etc/weftnet/defaults.yaml", "YAML stream of the objects")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for the API server and its kinds")
	return cmd
}
