package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// metaPackage names Debian's current kernel for virtual machines. It is small and has every module
// that a node needs.
const metaPackage = "linux-image-cloud-amd64"

// kernel is an unpacked Debian kernel.
type kernel struct {
	image   string // vmlinuz
	modules string // directory of its modules
}

// fetchKernel downloads and unpacks Debian's kernel, once per version, into the user's cache.
func fetchKernel(ctx context.Context) (kernel, error) {
	name, err := kernelPackage(ctx)
	if err != nil {
		return kernel{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(cache, "weftnet", "kernel", name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := unpackKernel(ctx, name, dir); err != nil {
			return kernel{}, fmt.Errorf("fetch %s: %w", name, err)
		}
	}
	version := strings.TrimPrefix(name, "linux-image-")
	return kernel{image: filepath.Join(dir, "boot", "vmlinuz-"+version), modules: filepath.Join(dir, "lib", "modules", version)}, nil
}

func kernelPackage(ctx context.Context) (string, error) {
	out, err := command(ctx, "", "apt-cache", "depends", metaPackage)
	if err != nil {
		return "", fmt.Errorf("this test takes its kernel from Debian and needs apt: %w", err)
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("apt knows no %s; try apt-get update", metaPackage)
}

// unpackKernel leaves either all of it at dir or nothing.
func unpackKernel(ctx context.Context, name, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	fmt.Println("downloading", name)
	if _, err := command(ctx, work, "apt-get", "download", "-q", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get left %d packages: %w", len(debs), err)
	}
	if _, err := command(ctx, work, "dpkg", "-x", debs[0], filepath.Join(work, "root")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "root"), dir)
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
