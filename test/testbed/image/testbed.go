package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/weftnet/weftnet/test/testbed/build"
	"github.com/weftnet/weftnet/test/testbed/progress"
	"github.com/weftnet/weftnet/test/testbed/store"
)

// Names of the images that a cluster itself needs.
const (
	Pause   = "localhost/pause:1"
	CoreDNS = "localhost/coredns:1"
	Agnhost = "localhost/agnhost:1" // only the static binary, for demos and our own tests: small, so quickly loaded
)

// Archives of the testbed, as file names without ".tar".
const (
	ArchivePause   = "pause"
	ArchiveCoreDNS = "coredns"
	ArchiveAgnhost = "agnhost"
	ArchiveE2E     = "e2e" // all that the upstream suite names, on one shared root file system
)

const (
	archiveRecipe = "1" // part of every key: raise it when the way of writing archives changes
	searchPath    = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// TestbedArchives lists the testbed's archives, those of a plain cluster first.
func TestbedArchives() []string {
	return []string{ArchivePause, ArchiveCoreDNS, ArchiveAgnhost, ArchiveE2E}
}

// suiteImages are the names in test/utils/image/manifest.go of Kubernetes 1.37 that network tests use, and of
// the conformance suite of network-policy-api 0.2.0 (agnhost:2.45). All but pause share agnhost's content: the tests
// run programs in them that are there.
var suiteImages = []struct {
	names  []string
	config v1.Config
}{
	{[]string{"agnhost:2.66.1", "agnhost:2.55", "agnhost:2.45"}, v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
	{[]string{"busybox:1.37.0-2"}, v1.Config{Cmd: []string{"sh"}}},
	{[]string{"glibc-dns-testing:2.1.1"}, v1.Config{Cmd: []string{"/agnhost", "pause"}}},
	{[]string{"regression-issue-74839:1.5"}, v1.Config{Entrypoint: []string{"/regression-issue-74839"}}},
	{[]string{"nginx:1.27.0-2", "nginx:1.28.0-2"}, v1.Config{Cmd: []string{"/agnhost", "netexec", "--http-port=80", "--udp-port=-1"}}},
}

const (
	suiteRegistry = "registry.k8s.io/e2e-test-images/"
	suitePause    = "registry.k8s.io/pause:3.10.2"
)

// TestbedOptions of Testbed.
type TestbedOptions struct {
	Root     string    // the repository; empty: found from the working directory upwards
	Bin      string    // where build.Run put the programs; empty: .testbed/bin
	Out      string    // output directory; empty: .testbed/images
	Only     []string  // names of archives; empty: all
	Progress io.Writer // nil: silent
}

type testbedMaker struct {
	root, bin string
	store     store.Store
	display   *progress.Display
}

// Testbed makes Out hold the archives, from the cache or by writing them, and returns their paths in the order asked for. The programs
// must have been built before.
func Testbed(ctx context.Context, o TestbedOptions) ([]string, error) {
	root, err := build.Root(o.Root)
	if err != nil {
		return nil, err
	}
	m := &testbedMaker{root: root, bin: resolve(root, o.Bin, ".testbed/bin"), display: progress.New(o.Progress)}
	defer m.display.Close()
	if m.store, err = store.Open(); err != nil {
		return nil, err
	}
	unlock, err := m.store.Lock(ctx, "images", func() { m.display.Printf("Another run makes images; waiting for it.") })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(o.Only) == 0 {
		o.Only = TestbedArchives()
	}
	var paths []string
	for _, name := range o.Only {
		path := filepath.Join(resolve(root, o.Out, ".testbed/images"), name+".tar")
		if err := m.make(ctx, name, path); err != nil {
			return nil, fmt.Errorf("make archive %s: %w", name, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
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

func (m *testbedMaker) make(ctx context.Context, name, path string) error {
	switch name {
	case ArchivePause:
		return m.pause(ctx, path)
	case ArchiveCoreDNS:
		files := []File{{Path: "/coredns", Source: filepath.Join(m.bin, "coredns")}}
		return m.static(name, path, files, []spec{{names: []string{CoreDNS}, config: v1.Config{Entrypoint: []string{"/coredns"}}}}, "")
	case ArchiveAgnhost:
		config := v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}
		files := []File{{Path: "/agnhost", Source: filepath.Join(m.bin, "agnhost")}, {Path: "/tmp", Dir: true, Mode: 0o1777}}
		return m.static(name, path, files, []spec{{names: []string{Agnhost}, config: config}}, "")
	case ArchiveE2E:
		return m.e2e(ctx, path)
	}
	return fmt.Errorf("no such archive: have %s", strings.Join(TestbedArchives(), ", "))
}

func (m *testbedMaker) pause(ctx context.Context, path string) error {
	dir, err := m.store.Scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "pause")
	if err := goBuild(ctx, m.root, binary, "-s -w", "./test/testbed/image/pause"); err != nil {
		return err
	}
	config := v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}
	return m.static(ArchivePause, path, []File{{Path: "/pause", Source: binary}},
		[]spec{{names: []string{Pause, suitePause}, config: config}}, "")
}

// e2e lays agnhost, and the CoreDNS that its DNS tests start from it, over the root file system.
func (m *testbedMaker) e2e(ctx context.Context, path string) error {
	base, baseKey, err := rootfs(ctx, m.store, m.display)
	if err != nil {
		return err
	}
	source, err := build.PackageDir(ctx, m.root, "agnhost")
	if err != nil {
		return err
	}
	files := []File{
		{Path: "/agnhost", Source: filepath.Join(m.bin, "agnhost")},
		{Path: "/agnhost-2", Link: "agnhost"},
		{Path: "/regression-issue-74839", Source: filepath.Join(m.bin, "regression-issue-74839")},
		{Path: "/coredns", Source: filepath.Join(m.bin, "coredns")},
		{Path: "/localhost.crt", Source: filepath.Join(source, "porter", "localhost.crt"), Mode: 0o644},
		{Path: "/localhost.key", Source: filepath.Join(source, "porter", "localhost.key"), Mode: 0o644},
		// As the wget of the real image: the suite asks once and takes silence for an answer.
		{Path: "/etc/wgetrc", Content: []byte("tries = 1\n"), Mode: 0o644},
		{Path: "/uploads", Dir: true},
	}
	var specs []spec
	for _, i := range suiteImages {
		s := spec{config: i.config}
		for _, n := range i.names {
			s.names = append(s.names, suiteRegistry+n)
		}
		specs = append(specs, s)
	}
	return m.static(ArchiveE2E, path, files, specs, base, baseKey)
}
