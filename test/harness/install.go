package harness

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
)

// Namespace is where the harness installs Weftnet.
const Namespace = "weftnet-system"

// Install loads Weftnet's images into every node and installs or upgrades the chart, with extra
// Helm arguments such as --set.
func (c *Cluster) Install(ctx context.Context, extra ...string) error {
	if err := c.LoadImages(ctx); err != nil {
		return err
	}
	return c.Upgrade(ctx, extra...)
}

// LoadImages loads the archives of Weftnet's images into every node, and those of the tests: a cluster
// may have come up before they were built.
func (c *Cluster) LoadImages(ctx context.Context) error {
	archives, err := filepath.Glob(filepath.Join(c.Root, "dist", "images", "*.tar"))
	if err != nil || len(archives) == 0 {
		return fmt.Errorf("find Weftnet's images in dist/images (`make images`): %d found: %w", len(archives), err)
	}
	tests, err := filepath.Glob(filepath.Join(c.Root, ".testbed", "images", "*.tar"))
	if err != nil {
		return fmt.Errorf("find the tests' images: %w", err)
	}
	if _, err := c.Testbed(ctx, slices.Concat([]string{"load"}, archives, tests)...); err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	return nil
}

// Upgrade installs or upgrades the chart without loading images.
func (c *Cluster) Upgrade(ctx context.Context, extra ...string) error {
	return c.UpgradeTo(ctx, filepath.Join("helm", "weftnet"), extra...)
}

// UpgradeTo does so with another chart, such as that of another version.
func (c *Cluster) UpgradeTo(ctx context.Context, chart string, extra ...string) error {
	host, port, err := c.apiServer()
	if err != nil {
		return err
	}
	args := append([]string{
		"upgrade", "--install", "weftnet", chart,
		"--namespace", Namespace, "--create-namespace",
		"--set", "apiServer.host=" + host,
		"--set", "apiServer.port=" + port,
		// The nodes share a kernel; each has a cgroup of its name.
		"--set", "serviceProxy.cgroup=$(NODE_NAME)",
	}, extra...)
	if _, err := Command(ctx, c.Root, c.Out, Bin(c.Root, "helm"), args...); err != nil {
		return fmt.Errorf("install the chart: %w", err)
	}
	return nil
}

// apiServer is where the testbed's API server listens: the underlay address of its first node, as the kubeconfig has it.
func (c *Cluster) apiServer() (host, port string, err error) {
	server, err := url.Parse(c.config.Host)
	if err != nil {
		return "", "", fmt.Errorf("read the API server's address in the kubeconfig: %w", err)
	}
	return server.Hostname(), server.Port(), nil
}

// Uninstall removes the release.
func (c *Cluster) Uninstall(ctx context.Context) error {
	_, err := Command(ctx, c.Root, c.Out, Bin(c.Root, "helm"), "uninstall", "weftnet", "--namespace", Namespace, "--wait")
	return err
}
