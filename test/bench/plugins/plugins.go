//go:build linux

// Package plugins builds the reference CNI plugins that Weftnet is measured beside, from their own module
// at the version that tools/cni pins.
package plugins

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
)

const module = "github.com/containernetworking/plugins/plugins/"

// Build puts static binaries of ptp, host-local and portmap into the folder, one after another: they share most of
// what they compile.
func Build(t *testing.T, dir string) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"main/ptp", "ipam/host-local", "meta/portmap"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join(root, "tools", "cni"),
			"-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, filepath.Base(path)), module+path)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the reference plugin %s: %v\n%s", path, err, out)
		}
	}
}
