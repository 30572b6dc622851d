package command

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weftnet/cli/explain"
	"github.com/weftnet/weftnet/cli/overview"
	"github.com/weftnet/weftnet/cli/view"
)

// patience is how long one agent may take to answer; it takes a living one some milliseconds.
const patience = 3 * time.Second

func statusCommand(a *access) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the nodes of the mesh, the pools, and what is wrong",
		Long: "Show each node with its backend, Pod CIDRs, endpoints, peers connected of those expected, and the age of\n" +
			"its last handshake; the address pools; every condition that does not hold; and every agent that does not\n" +
			"answer. The exit status is 1 when anything is wrong.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := look(cmd, a)
			if err != nil {
				return err
			}
			if err := overview.Write(cmd.OutOrStdout(), m); err != nil {
				return err
			}
			if len(overview.Troubles(m)) > 0 {
				return ErrFound
			}
			return nil
		},
	}
}

func explainCommand(a *access) *cobra.Command {
	return &cobra.Command{
		Use:     "explain NODE NODE",
		Short:   "Say why a pair of nodes cannot talk",
		Example: "  weft explain worker-1 worker-2",
		Long: "Say what stands between two nodes: allocation, keys, endpoints, conditions, what each end's WireGuard\n" +
			"device says of the other, and what to do about it. The worst comes first. The exit status is 1 unless the\n" +
			"pair has a good session in both directions.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, nodes []string) error {
			m, err := look(cmd, a)
			if err != nil {
				return err
			}
			found := explain.Pair(m, nodes[0], nodes[1])
			works := explain.Works(m, nodes[0], nodes[1], found)
			if err := writeFindings(cmd.OutOrStdout(), nodes, found, works); err != nil {
				return err
			}
			if !works {
				return ErrFound
			}
			return nil
		},
	}
}

func look(cmd *cobra.Command, a *access) (*view.Mesh, error) {
	source, err := a.source(patience)
	if err != nil {
		return nil, err
	}
	return source.Read(cmd.Context())
}

func writeFindings(w io.Writer, nodes []string, found []explain.Finding, works bool) error {
	verdict := "does not work, or could not be shown to"
	if works {
		verdict = "works"
	}
	if _, err := fmt.Fprintf(w, "%s <-> %s: %s\n", nodes[0], nodes[1], verdict); err != nil {
		return fmt.Errorf("write the findings: %w", err)
	}
	for _, f := range found {
		text := fmt.Sprintf("\n%-7s  %s: %s\n", f.Level, f.About, f.Text)
		if f.Do != "" {
			text += fmt.Sprintf("         to do: %s\n", f.Do)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return fmt.Errorf("write the findings: %w", err)
		}
	}
	return nil
}
