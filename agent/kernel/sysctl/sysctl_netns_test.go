//go:build netns

package sysctl

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestNamespaceSettings writes real settings, and looks that they are those of the namespace.
func TestNamespaceSettings(t *testing.T) {
	ns := nstest.New(t)
	want := []state.Sysctl{
		{Path: "ipv4/ip_forward", Value: "1"}, {Path: "ipv4/conf/lo/rp_filter", Value: "2"},
		{Path: "ipv6/conf/all/forwarding", Value: "1"}, {Path: "ipv6/conf/lo/accept_ra", Value: "0"},
	}
	outside, err := New(DefaultRoot)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"ipv4/conf/lo/rp_filter", "ipv6/conf/lo/accept_ra"}
	before, err := outside.Observe(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() {
		k, err := New(DefaultRoot)
		if err != nil {
			t.Error(err)
			return
		}
		if c, err := k.Ensure(t.Context(), want); err != nil || c.Empty() {
			t.Errorf("first time: change is %q, error %v", c, err)
		}
		if c, err := k.Ensure(t.Context(), want); err != nil || !c.Empty() {
			t.Errorf("second time: change is %q, error %v", c, err)
		}
		if _, err := k.Ensure(t.Context(), []state.Sysctl{{Path: "ipv4/conf/nowhere0/rp_filter", Value: "2"}}); !errors.Is(err, unix.ENOENT) {
			t.Errorf("missing link: error is %v", err)
		}
		if _, err := k.Ensure(t.Context(), []state.Sysctl{{Path: "ipv4/ip_forward", Value: "many"}}); !errors.Is(err, unix.EINVAL) {
			t.Errorf("bad value: error is %v", err)
		}
	})
	if after, err := outside.Observe(t.Context(), paths); err != nil || !same(before.Settings, after.Settings) {
		t.Errorf("settings outside went from %v to %v, error %v", before, after, err)
	}
}

func same(a, b []state.Sysctl) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestReadOnlyRoot mounts a directory read-only, in a mount namespace of its own, and reads the error.
func TestReadOnlyRoot(t *testing.T) {
	nstest.RequireRoot(t)
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "ipv4"), 0o755), os.WriteFile(filepath.Join(root, "ipv4/ip_forward"), []byte("0\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
		done <- readOnly(t, root)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func readOnly(t *testing.T, root string) error {
	if err := errors.Join(
		unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(root, root, "", unix.MS_BIND, ""),
		unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""),
	); err != nil {
		return err
	}
	k, err := New(root)
	if err != nil {
		return err
	}
	_, err = k.Ensure(t.Context(), []state.Sysctl{{Path: "ipv4/ip_forward", Value: "1"}})
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "mounted read-only") {
		t.Errorf("error is %v", err)
	}
	return nil
}
