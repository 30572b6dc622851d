package node

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Import loads an image archive into a running node.
func Import(ctx context.Context, l layout.Layout, init proc.Process, archive string) error {
	return runCtr(ctx, l, Socket(init), "images", "import", "--snapshotter", "overlayfs", archive)
}

func runCtr(ctx context.Context, l layout.Layout, socket string, args ...string) error {
	args = append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, l.Path("bin", "ctr"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run ctr %s: %w: %s", strings.Join(args[4:], " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
