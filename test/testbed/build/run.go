package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/progress"
	"github.com/weftnet/weftnet/test/testbed/store"
)

// parallelQueues is how many go commands run at once: a second one fills the time in which the first links on a single core.
const parallelQueues = 2

// Options of Run. The zero value builds everything but the dev set into .testbed/bin of the repository around the working directory.
type Options struct {
	Root     string    // the repository; empty: found from the working directory upwards
	Out      string    // output directory, relative to Root unless absolute; empty: .testbed/bin
	Only     []string  // names of targets or sets; empty: cluster, upstream and bench
	Progress io.Writer // nil: silent
}

type builder struct {
	root, out string
	keys      map[string]string // by target name
	store     store.Store
	display   *progress.Display
}

// Run makes Out hold the selected programs, from the cache or by building them. Two runs at once wait for each other.
func Run(ctx context.Context, o Options) error {
	targets, err := Select(o.Only)
	if err != nil {
		return err
	}
	b, err := newBuilder(o, targets)
	if err != nil {
		return err
	}
	if missing := b.missing(targets); len(missing) > 0 {
		b.display = progress.New(o.Progress)
		defer b.display.Close()
		if err := b.make(ctx, targets); err != nil {
			return err
		}
	}
	return b.export(targets)
}

func newBuilder(o Options, targets []Target) (*builder, error) {
	root, err := Root(o.Root)
	if err != nil {
		return nil, err
	}
	b := &builder{root: root, out: resolve(root, o.Out, ".testbed/bin"), keys: map[string]string{}}
	if b.store, err = store.Open(); err != nil {
		return nil, err
	}
	sources := map[string]string{}
	for _, t := range targets {
		if _, seen := sources[t.Module]; !seen {
			if sources[t.Module], err = moduleSources(filepath.Join(root, "tools", t.Module)); err != nil {
				return nil, err
			}
		}
		toolchain := runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
		own, err := ownSources(root, t)
		if err != nil {
			return nil, err
		}
		b.keys[t.Name] = key(t, Inputs{Toolchain: toolchain, Sources: sources[t.Module] + own})
	}
	return b, nil
}

func resolve(root, path, fallback string) string {
	if path == "" {
		path = fallback
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(root, path)
}

func (b *builder) missing(targets []Target) []Target {
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return b.store.Has(b.keys[t.Name], t.Name) })
}

// make builds what is missing into the store. It looks again once it holds the lock: another run may just have built it.
func (b *builder) make(ctx context.Context, targets []Target) error {
	unlock, err := b.store.Lock(ctx, "build", func() {
		b.display.Printf("Another build is running; waiting for it.")
	})
	if err != nil {
		return err
	}
	defer unlock()
	missing := b.missing(targets)
	if len(missing) == 0 {
		return nil
	}
	b.display.Printf("%s", announcement(missing, runtime.NumCPU()))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelQueues)
	for _, queue := range queues(missing) {
		group.Go(func() error {
			for _, j := range queue {
				if err := b.runJob(ctx, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// runJob builds the job's targets and stores and exports what came out, even when some of them failed.
func (b *builder) runJob(ctx context.Context, j job) error {
	dir, err := b.store.Scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	task := b.display.Start(j.name())
	source := filepath.Join(b.root, "tools", j.module)
	version, err := pinnedVersion(ctx, source, modules[j.module].versionOf)
	if err != nil {
		return task.Done(err)
	}
	var buildErr error
	for _, args := range commands(j, version, dir) {
		if buildErr = runGo(ctx, source, args, task); buildErr != nil {
			break
		}
	}
	var errs []error
	for _, t := range j.targets {
		file := filepath.Join(dir, builtName(t))
		if _, err := os.Stat(file); err != nil {
			continue // buildErr says why
		}
		errs = append(errs, b.store.Put(b.keys[t.Name], t.Name, file), b.export([]Target{t}))
	}
	return task.Done(errors.Join(append(errs, buildErr)...))
}

func (b *builder) export(targets []Target) error {
	for _, t := range targets {
		if err := b.store.Export(b.keys[t.Name], t.Name, filepath.Join(b.out, t.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Root returns start, or when it is empty the nearest folder from the working directory upwards that holds Weftnet's go.mod.
func Root(start string) (string, error) {
	if start != "" {
		return filepath.Abs(start)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module github.com/weftnet/weftnet\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the repository: run inside a clone of weftnet")
		}
	}
}

// moduleSources returns the content of everything in a tool module that decides what is built from it, but for programs in folders
// of their own, see ownSources.
func moduleSources(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("list %s: %w", dir, err)
	}
	return contents(append([]string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")}, files...))
}

// ownSources returns the content of a program of ours that has a folder of its own in the tool module: a change to it leaves the
// module's other programs as they are.
func ownSources(root string, t Target) (string, error) {
	if !strings.HasPrefix(t.Package, "./") {
		return "", nil
	}
	files, err := filepath.Glob(filepath.Join(root, "tools", t.Module, t.Package, "*.go"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("find the sources of %s: %d files: %w", t.Name, len(files), err)
	}
	return contents(files)
}

func contents(files []string) (string, error) {
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read the tool module: %w", err)
		}
		fmt.Fprintf(&all, "%s %d\n%s", filepath.Base(file), len(content), content)
	}
	return all.String(), nil
}
