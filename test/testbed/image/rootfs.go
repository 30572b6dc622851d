package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/testbed/progress"
	"github.com/weftnet/weftnet/test/testbed/store"
)

const (
	rootfsRecipe = "1" // part of the key: raise it when makeRootfs changes
	rootfsName   = "rootfs.tar"
)

// rootfsPackages are the programs that the upstream suite runs inside its images.
var rootfsPackages = []string{"bind9-dnsutils", "curl", "iperf", "iperf3", "iproute2", "iputils-ping", "netcat-openbsd", "socat", "wget"}

// rootfsUsers are the accounts that the suite expects in agnhost.
const (
	rootfsPasswd = "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"
	rootfsGroup  = "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
)

// ballast is removed from the root file system: every node unpacks it.
var ballast = []string{
	"var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/info",
	"usr/share/locale", "usr/share/lintian", "usr/share/zoneinfo", "etc/resolv.conf", "etc/hostname",
}

// mirror is where this machine takes its Debian packages from.
type mirror struct {
	url, suite string
	components []string
}

func (m mirror) key() string {
	parts := append([]string{rootfsRecipe, m.suite, runtime.GOARCH, rootfsPasswd, rootfsGroup}, rootfsPackages...)
	return store.Key(append(parts, ballast...)...)
}

// rootfs returns the path of a tar with a small Debian root, from the cache or by debootstrap.
func rootfs(ctx context.Context, s store.Store, d *progress.Display) (file, key string, err error) {
	m, err := findMirror(ctx)
	if err != nil {
		return "", "", err
	}
	key = m.key()
	file = s.Path(key, rootfsName)
	if s.Has(key, rootfsName) {
		return file, key, nil
	}
	task := d.Start("root file system of the end-to-end images (debootstrap, about a minute)")
	return file, key, task.Done(makeRootfs(ctx, s, m, key, task))
}

// findMirror reads apt's own configuration, in whichever format that is written.
func findMirror(ctx context.Context) (mirror, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return mirror{}, fmt.Errorf("find a Debian mirror for the end-to-end images (they need Debian or Ubuntu, and root): %w", err)
	}
	osRelease, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return mirror{}, fmt.Errorf("read the release's name: %w", err)
	}
	return parseMirror(string(out), codename(string(osRelease)))
}

func codename(osRelease string) string {
	for line := range strings.Lines(osRelease) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

func parseMirror(targets, suite string) (mirror, error) {
	m := mirror{suite: suite}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[1] != suite || m.url != "" && f[0] != m.url {
			continue
		}
		m.url = f[0]
		if !slices.Contains(m.components, f[2]) {
			m.components = append(m.components, f[2])
		}
	}
	if m.url == "" || suite == "" {
		return mirror{}, fmt.Errorf("find a Debian mirror: apt has none for release %q", suite)
	}
	return m, nil
}

func makeRootfs(ctx context.Context, s store.Store, m mirror, key string, task *progress.Task) error {
	if os.Geteuid() != 0 {
		return errors.New("make the root file system of the end-to-end images: debootstrap needs root")
	}
	dir, err := s.Scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, file := filepath.Join(dir, "root"), filepath.Join(dir, rootfsName)
	task.Note("debootstrap %s from %s", m.suite, m.url)
	// In a mount namespace of its own, so that an interrupted run leaves nothing mounted beneath the folder that we then remove.
	err = run(ctx, "unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase",
		"--components="+strings.Join(m.components, ","), "--include="+strings.Join(rootfsPackages, ","), m.suite, root, m.url)
	if err != nil {
		return err
	}
	if err := trim(root); err != nil {
		return err
	}
	task.Note("packing")
	err = run(ctx, "tar", "--sort=name", "--mtime=@0", "--numeric-owner", "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*",
		"-C", root, "-cf", file, ".")
	if err != nil {
		return err
	}
	return s.Put(key, rootfsName, file)
}

func trim(root string) error {
	for _, path := range ballast {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return fmt.Errorf("trim the root file system: %w", err)
		}
	}
	return errors.Join(appendTo(filepath.Join(root, "etc/passwd"), rootfsPasswd), appendTo(filepath.Join(root, "etc/group"), rootfsGroup))
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("add the suite's accounts: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// run runs a program to its end; on failure the error carries the end of what it printed.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that cancelling ends its children too
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("run %s: %w\n%s", name, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	return nil
}
