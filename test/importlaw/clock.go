package importlaw

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
)

// clockReaders are the names in package time that read or wait for the clock. The package itself
// is welcome in pure code: durations and times are values.
var clockReaders = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

const clockWhy = "time is an argument: a pure stage that reads the clock cannot be tested at another time, and two nodes would not agree"

// CheckClock returns every place in the pure packages, and in those of the module's own that they
// reach, that reads the clock.
func CheckClock(g Graph) ([]string, error) {
	reached := map[string]Package{}
	for _, root := range g.sorted(pureFolders...) {
		for path := range g.chains(root.ImportPath, Package.own) {
			if p := g[path]; p.own() {
				reached[path] = p
			}
		}
	}
	var places []string
	for _, p := range reached {
		found, err := clockReads(p)
		if err != nil {
			return nil, err
		}
		places = append(places, found...)
	}
	slices.Sort(places)
	return places, nil
}

func clockReads(p Package) ([]string, error) {
	var places []string
	for _, name := range p.GoFiles {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse a file of %s: %w", p.ImportPath, err)
		}
		local, imported := timeName(file)
		if !imported {
			continue
		}
		if local == "." {
			places = append(places, fmt.Sprintf("%s/%s imports time with a dot, which hides the clock\n    %s", short(p.ImportPath), name, clockWhy))
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if reader, ok := clockReader(n, local); ok {
				at := fset.Position(n.Pos())
				places = append(places, fmt.Sprintf("%s/%s:%d uses time.%s\n    %s", short(p.ImportPath), name, at.Line, reader, clockWhy))
			}
			return true
		})
	}
	return places, nil
}

// clockReader says which reader of the clock the node names, if it does. A local variable that
// has the name of the import is taken for it: name it otherwise.
func clockReader(n ast.Node, local string) (string, bool) {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	return sel.Sel.Name, ok && x.Name == local && slices.Contains(clockReaders, sel.Sel.Name)
}

// timeName is the name under which a file imports package time.
func timeName(file *ast.File) (name string, imported bool) {
	for _, spec := range file.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil && path == "time" {
			if spec.Name != nil {
				return spec.Name.Name, true
			}
			return "time", true
		}
	}
	return "", false
}
