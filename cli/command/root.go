// Package command is the weft command line: it reads flags, gathers what a command needs, lets a
// pure package conclude, and writes the result.
package command

import (
	"errors"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftnet/weftnet/version"
)

// ErrFound ends a command whose answer is "not well": the answer has been written, and the exit
// status says it too.
var ErrFound = errors.New("something is not as it should be")

// New makes the command line; name is what the user typed.
func New(name string) *cobra.Command {
	var access access
	root := &cobra.Command{
		Use:           "weft",
		Short:         "Look at a Weftnet mesh, and say why a pair of nodes cannot talk",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Version,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&access.kubeconfig, clientcmd.RecommendedConfigPathFlag, "", "path of the kubeconfig (default: $KUBECONFIG, ~/.kube/config, or the Pod's own)")
	flags.StringVar(&access.context, "context", "", "context of the kubeconfig")
	root.AddCommand(
		statusCommand(&access),
		explainCommand(&access),
		checkCommand(&access),
		cleanupCommand(&access),
		policyCommand(&access),
		applyDefaultsCommand(&access),
		versionCommand(),
	)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { cmd.Println(version.Version) },
	}
}
