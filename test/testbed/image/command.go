package image

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Command returns `testbed images`.
func Command() *cobra.Command {
	product := ProductOptions{Version: os.Getenv("VERSION")}
	cmd := &cobra.Command{
		Use:          "images [name]...",
		Short:        "Write Weftnet's images as OCI archives into dist/images",
		Long:         "Builds Weftnet's programs and writes their images: " + strings.Join(ProductNames(), ", ") + ".",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			product.Only, product.Progress = args, cmd.ErrOrStderr()
			paths, err := Product(cmd.Context(), product)
			return report(cmd, paths, err)
		},
	}
	cmd.Flags().StringVar(&product.Version, "version", product.Version, "tag of the images and version of the programs (default $VERSION or "+DefaultVersion+")")
	cmd.Flags().StringVar(&product.Out, "out", "", "output directory (default dist)")
	cmd.AddCommand(testbedCommand())
	return cmd
}

func testbedCommand() *cobra.Command {
	var o TestbedOptions
	cmd := &cobra.Command{
		Use:          "testbed [name]...",
		Short:        "Write the testbed's own images into .testbed/images",
		Long:         "Writes the archives of the testbed: " + strings.Join(TestbedArchives(), ", ") + ". The programs in them come from `testbed build`.",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Only, o.Progress = args, cmd.ErrOrStderr()
			paths, err := Testbed(cmd.Context(), o)
			return report(cmd, paths, err)
		},
	}
	cmd.Flags().StringVar(&o.Out, "out", "", "output directory (default .testbed/images)")
	return cmd
}

func report(cmd *cobra.Command, paths []string, err error) error {
	if err != nil {
		return err
	}
	for _, path := range paths {
		refs, err := Read(path)
		if err != nil {
			return err
		}
		for _, r := range refs {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", path, r.Name, r.Digest)
		}
	}
	return nil
}
