package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/build"
	"github.com/weftnet/weftnet/test/testbed/progress"
)

// DefaultVersion is what images carry when no version is given.
const DefaultVersion = "dev"

const (
	productRegistry = "weftnet.io/"
	versionVariable = "github.com/weftnet/weftnet/version.Version"
	nonroot         = "65532:65532" // the number that distroless images use for it
)

// program is a binary and the main package it is built from.
type program struct{ name, source string }

var programs = []program{
	{"weftnet-agent", "agent"},
	{"weftnet-operator", "operator"},
	{"weftnet-wireguard", "wireguard"},
	{"weftnet-cni", "cni"},
	{"weft", "cli"},
}

// product is one of Weftnet's images. The first program is its entrypoint.
type product struct {
	name     string
	programs []string
	user     string // empty: root, for what needs capabilities on the node
}

// The agent's image also carries what the agent installs on the host: the CNI plugin, and the command-line client for `weft cleanup`.
var products = []product{
	{name: "agent", programs: []string{"weftnet-agent", "weft", "weftnet-cni"}},
	{name: "operator", programs: []string{"weftnet-operator"}, user: nonroot},
	{name: "wireguard", programs: []string{"weftnet-wireguard"}},
	{name: "weft", programs: []string{"weft"}, user: nonroot},
}

// ProductNames lists Weftnet's images.
func ProductNames() (out []string) {
	for _, p := range products {
		out = append(out, p.name)
	}
	return out
}

// ProductOptions of Product.
type ProductOptions struct {
	Root     string    // the repository; empty: found from the working directory upwards
	Out      string    // output directory; empty: dist. Archives go to images/ in it, programs to bin/
	Version  string    // tag and stamped version; empty: DefaultVersion
	Only     []string  // names of images; empty: all
	Progress io.Writer // nil: silent
}

var tag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

func (o *ProductOptions) complete() error {
	var errs []error
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if !tag.MatchString(o.Version) {
		errs = append(errs, fmt.Errorf("version %q cannot be an image tag", o.Version))
	}
	if len(o.Only) == 0 {
		o.Only = ProductNames()
	}
	for _, name := range o.Only {
		if !slices.Contains(ProductNames(), name) {
			errs = append(errs, fmt.Errorf("no image %q: have %s", name, strings.Join(ProductNames(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// Product builds Weftnet's programs and writes their images, and returns the archives' paths.
func Product(ctx context.Context, o ProductOptions) ([]string, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	root, err := build.Root(o.Root)
	if err != nil {
		return nil, err
	}
	out := resolve(root, o.Out, "dist")
	selected := slices.DeleteFunc(slices.Clone(products), func(p product) bool { return !slices.Contains(o.Only, p.name) })
	display := progress.New(o.Progress)
	defer display.Close()
	task := display.Start("Weftnet " + o.Version + ": " + strings.Join(o.Only, ", "))
	bin := filepath.Join(out, "bin")
	if err := buildPrograms(ctx, root, bin, o.Version, programsOf(selected)); err != nil {
		return nil, task.Done(err)
	}
	paths := make([]string, len(selected))
	var group errgroup.Group
	for i, p := range selected {
		paths[i] = filepath.Join(out, "images", p.name+".tar")
		group.Go(func() error { return writeProduct(p, bin, o.Version, paths[i]) })
	}
	return paths, task.Done(group.Wait())
}

func programsOf(selected []product) []program {
	return slices.DeleteFunc(slices.Clone(programs), func(prog program) bool {
		return !slices.ContainsFunc(selected, func(p product) bool { return slices.Contains(p.programs, prog.name) })
	})
}

// buildPrograms builds all in one go command, which names them after their folders, and renames them into bin.
func buildPrograms(ctx context.Context, root, bin, version string, list []program) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make the folder of the programs: %w", err)
	}
	stage, err := os.MkdirTemp(bin, "stage-")
	if err != nil {
		return fmt.Errorf("make a scratch folder: %w", err)
	}
	defer os.RemoveAll(stage)
	var packages []string
	for _, p := range list {
		if _, err := os.Stat(filepath.Join(root, p.source)); err != nil {
			return fmt.Errorf("build %s: its source folder ./%s is not there: %w", p.name, p.source, err)
		}
		packages = append(packages, "./"+p.source)
	}
	if err := goBuild(ctx, root, stage+"/", "-s -w -X "+versionVariable+"="+version, packages...); err != nil {
		return err
	}
	for _, p := range list {
		if err := os.Rename(filepath.Join(stage, p.source), filepath.Join(bin, p.name)); err != nil {
			return fmt.Errorf("build %s: ./%s is no main package: %w", p.name, p.source, err)
		}
	}
	return nil
}

func writeProduct(p product, bin, version, path string) error {
	dir, err := os.MkdirTemp("", "weftnet-image-")
	if err != nil {
		return fmt.Errorf("make a scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	var files []File
	for _, name := range p.programs {
		files = append(files, File{Path: "/" + name, Source: filepath.Join(bin, name)})
	}
	layer, err := layerIn(dir, files)
	if err != nil {
		return err
	}
	return WriteArchive(path, []Image{{
		Names:  []string{productRegistry + p.name + ":" + version},
		Config: v1.Config{Entrypoint: []string{"/" + p.programs[0]}, User: p.user, Env: []string{"PATH=/"}},
		Layers: []v1.Layer{layer},
	}})
}
