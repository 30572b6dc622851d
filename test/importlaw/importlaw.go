// Package importlaw holds the law of the house: which package may reach which, and why. It reads
// the import graph as `go list -deps` gives it and returns every breach with the chain of imports
// that leads to it and the reason for the law, so that the text of a failing test is the review.
//
// Only what is built into the product is judged; tests may import what they need.
package importlaw

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Module is the path of the module whose packages the law is about.
const Module = "github.com/weftnet/weftnet"

// Package is what the law needs of a package in `go list -json`.
type Package struct {
	ImportPath string
	Dir        string
	Standard   bool
	GoFiles    []string
	Imports    []string
}

// own says whether the package belongs to the module.
func (p Package) own() bool { return under(p.ImportPath, Module) }

// Graph is a set of packages by import path.
type Graph map[string]Package

// Load lists every package of the module in dir, with all that they depend on.
func Load(dir string) (Graph, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,GoFiles,Imports", "./...")
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("list the packages in %s: %w: %s", dir, err, exit.Stderr)
		}
		return nil, fmt.Errorf("list the packages in %s: %w", dir, err)
	}
	return parse(strings.NewReader(string(out)))
}

func parse(r io.Reader) (Graph, error) {
	graph := Graph{}
	for dec := json.NewDecoder(r); ; {
		var p Package
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return graph, nil
		case err != nil:
			return nil, fmt.Errorf("parse the output of go list: %w", err)
		}
		graph[p.ImportPath] = p
	}
}

// sorted returns the module's own packages that lie under one of the folders, in order.
func (g Graph) sorted(folders ...string) []Package {
	var found []Package
	for _, p := range g {
		if p.own() && slices.ContainsFunc(folders, func(f string) bool { return under(p.ImportPath, inModule(f)) }) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b Package) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return found
}

// chains walks the imports from root breadth first and gives, for each package reached, the
// shortest way to it. It goes on behind a package only where through allows it.
func (g Graph) chains(root string, through func(Package) bool) map[string][]string {
	ways := map[string][]string{root: {root}}
	for queue := []string{root}; len(queue) > 0; queue = queue[1:] {
		at := g[queue[0]]
		if at.ImportPath != root && !through(at) {
			continue
		}
		for _, next := range at.Imports {
			if _, seen := ways[next]; !seen {
				ways[next] = append(slices.Clone(ways[at.ImportPath]), next)
				queue = append(queue, next)
			}
		}
	}
	return ways
}

// under says whether path is prefix itself or lies beneath it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func inModule(folder string) string { return Module + "/" + folder }

func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, Module), "/")
}
