package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// suite is one package whose netns tests run in the machine.
type suite struct {
	pkg string
	// run chooses tests by name; empty is all.
	run string
}

const modulePath = "github.com/weftnet/weftnet/"

// buildImage makes the initial file system: the init program, the modules in the order in which to
// load them, the test programs with their test data, and the wireguard process for them to start.
func buildImage(ctx context.Context, work, target string, k kernel) error {
	fmt.Println("building the test programs")
	f, err := os.Create(target)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := &archive{out: buffered, dirs: map[string]bool{}}
	err = errors.Join(fill(ctx, work, w, k), w.close(), buffered.Flush(), f.Close())
	if err != nil {
		return fmt.Errorf("make the initial file system: %w", err)
	}
	return nil
}

func fill(ctx context.Context, work string, w *archive, k kernel) error {
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "run", "var"} {
		w.dir(dir)
	}
	w.symlink("var/run", "/run")
	w.console("dev/console")
	programs := map[string]string{"init": "test/kernel/init", "bin/wireguard": "wireguard"}
	for target, pkg := range programs {
		file := filepath.Join(work, filepath.Base(target))
		if err := build(ctx, "build", file, pkg); err != nil {
			return err
		}
		w.file(target, file, 0o755)
	}
	for _, name := range tools {
		if err := addTool(ctx, w, name); err != nil {
			return err
		}
	}
	order, err := loadOrder(k.modules, modules)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, file := range order {
		name := path.Join("modules", filepath.Base(file))
		w.file(name, file, 0o644)
		list.WriteString("/" + name + "\n")
	}
	w.text("modules/order", list.String())
	for _, s := range suites {
		if err := addSuite(ctx, work, w, s); err != nil {
			return err
		}
	}
	return w.err
}

// addTool takes a program of this machine along, with the libraries that it loads.
func addTool(ctx context.Context, w *archive, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is missing (on Debian: apt-get install iproute2 nftables): %w", name, err)
	}
	w.file(path.Join("bin", name), file, 0o755)
	out, err := command(ctx, "", "ldd", file)
	if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(out) { // "libc.so.6 => /lib/x/libc.so.6 (0x0)" and "/lib64/ld-linux.so (0x0)"
		if strings.HasPrefix(word, "/") && !w.dirs[word] {
			w.dirs[word] = true
			w.file(strings.TrimPrefix(word, "/"), word, 0o755)
		}
	}
	return nil
}

func addSuite(ctx context.Context, work string, w *archive, s suite) error {
	dir := path.Join("tests", strings.ReplaceAll(s.pkg, "/", "."))
	file := filepath.Join(work, path.Base(dir))
	if err := build(ctx, "test", file, s.pkg); err != nil {
		return err
	}
	w.file(path.Join(dir, "test"), file, 0o755)
	w.text(path.Join(dir, "run"), s.run)
	source, err := command(ctx, "", "go", "list", "-f", "{{.Dir}}", modulePath+s.pkg)
	if err != nil {
		return err
	}
	data := filepath.Join(strings.TrimSpace(source), "testdata")
	err = filepath.WalkDir(data, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(data, p)
		if err == nil {
			w.file(path.Join(dir, "testdata", filepath.ToSlash(rel)), p, 0o644)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// build makes a static program: a command with "build", a package's tests with "test".
func build(ctx context.Context, verb, target, pkg string) error {
	args := []string{verb, "-ldflags=-s -w", "-o", target}
	if verb == "test" {
		args = append(args, "-c", "-tags", "netns")
	}
	_, err := command(ctx, "", "env", append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "go"}, append(args, modulePath+pkg)...)...)
	return err
}
