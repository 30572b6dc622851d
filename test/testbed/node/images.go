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

// Images tells which images the node has: the digest of each by its name.
func Images(ctx context.Context, l layout.Layout, init proc.Process) (map[string]string, error) {
	out, err := ctr(ctx, l, Socket(init), "images", "list")
	if err != nil {
		return nil, err
	}
	return parseImages(out), nil
}

// parseImages reads the columns name, type and digest.
func parseImages(list string) map[string]string {
	have := map[string]string{}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 2 && strings.Contains(f[2], ":") {
			have[f[0]] = f[2]
		}
	}
	return have
}

func runCtr(ctx context.Context, l layout.Layout, socket string, args ...string) error {
	_, err := ctr(ctx, l, socket, args...)
	return err
}

func ctr(ctx context.Context, l layout.Layout, socket string, args ...string) (string, error) {
	args = append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, l.Path("bin", "ctr"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run ctr %s: %w: %s", strings.Join(args[4:], " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
