package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// A node's images are unpacked once per set of archives, into a template.
// A node's containerd starts from a copy in which every file of an image is a
// hard link: nothing writes to an unpacked image, and the copy takes a
// fraction of a second where importing takes many.

// Template makes the template of the archives, or finds it made. The program
// is the copy of this one that nodes run.
func Template(ctx context.Context, l layout.Layout, program string, archives []string) (string, error) {
	key, err := archivesKey(archives)
	if err != nil {
		return "", err
	}
	final := l.Cache("containerd-" + key)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := removeOldTemplates(l); err != nil {
		return "", err
	}
	work := final + ".new"
	if err := importAll(ctx, l, program, work, archives); err != nil {
		return "", fmt.Errorf("unpack the images: %w", err)
	}
	if err := os.Rename(work, final); err != nil {
		return "", fmt.Errorf("keep the unpacked images: %w", err)
	}
	return final, nil
}

// archivesKey names the archives' content by size and time of change, which
// is what their builder changes when it writes them.
func archivesKey(archives []string) (string, error) {
	sum := sha256.New()
	for _, archive := range archives {
		info, err := os.Stat(archive)
		if err != nil {
			return "", fmt.Errorf("look at an image archive: %w", err)
		}
		fmt.Fprintf(sum, "%s %d %d\n", info.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

func removeOldTemplates(l layout.Layout) error {
	old, err := filepath.Glob(l.Cache("containerd-*"))
	if err != nil {
		return fmt.Errorf("list unpacked images: %w", err)
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove old unpacked images: %w", err)
		}
	}
	return nil
}

// Preload gives images to a node that does not run yet.
func Preload(ctx context.Context, c Config, program string, archives []string) error {
	return importAll(ctx, c.Layout, program, c.dir("containerd"), archives)
}

// importAll runs a containerd for the time of the import, as a node's first
// process does: its mounts end with it, and it ends with this program.
func importAll(ctx context.Context, l layout.Layout, program, root string, archives []string) (err error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	plan := l.Cache("import.json")
	if err := writeImportPlan(l, root, plan); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	init, err := proc.Start(proc.Spec{
		Path: program, Args: []string{InitCommand, plan}, Dir: "/", Log: l.Log("import"),
		Cloneflags: namespaces, Tied: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, init.Stop(context.WithoutCancel(ctx), 0)) }()
	if err := awaitSocket(ctx, Socket(init)); err != nil {
		return err
	}
	for _, archive := range archives {
		if err := Import(ctx, l, init, archive); err != nil {
			return err
		}
	}
	// What is imported must be on disk before its process is ended.
	unix.Sync()
	return nil
}

func writeImportPlan(l layout.Layout, root, file string) error {
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = \"/run/containerd\"\n"+
		"disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", "+
		"\"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = %q\n", root, containerdSocket)
	toml := l.Cache("import.toml")
	if err := os.WriteFile(toml, []byte(config), 0o644); err != nil {
		return err
	}
	c := Config{Layout: l}
	daemon := c.service("containerd", nil, "--config", toml)
	daemon.Log = l.Log("import")
	text, err := json.Marshal(Plan{Hostname: "tb-import", Dirs: []string{"/run/containerd"}, Services: []Service{daemon}})
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

func awaitSocket(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := proc.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, conn.Close()
	})
	if err != nil {
		return fmt.Errorf("wait for containerd: %w", err)
	}
	return nil
}

// UseTemplate gives a node without images those of the template.
func UseTemplate(c Config, template string) error {
	target := c.dir("containerd")
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	work := target + ".new"
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("remove an unfinished copy: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(work), 0o755); err != nil {
		return fmt.Errorf("make the disk of %s: %w", c.Node, err)
	}
	if err := cloneTree(template, work); err != nil {
		return fmt.Errorf("copy the images to %s: %w", c.Node, err)
	}
	return os.Rename(work, target)
}

// cloneTree copies folders, links what never changes, and copies databases.
func cloneTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case d.IsDir():
			return cloneDir(d, target)
		case filepath.Ext(path) == ".db":
			return copyFile(path, target)
		default:
			// Link, not its target: works for symbolic links and devices too.
			return unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, target, 0)
		}
	})
}

func cloneDir(d fs.DirEntry, target string) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("read the owner of %s", target)
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	if err := os.Chown(target, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	// After chown, which clears the set-group-id bit.
	return unix.Chmod(target, stat.Mode&0o7777)
}
