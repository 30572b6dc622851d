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

// use is what pure code may not take from a package whose values are welcome there.
type use struct {
	path, name string // import path, and the name of the package
	forbidden  []string
	why        string
}

var uses = []use{
	{
		path: "time", name: "time", // durations and times are values
		forbidden: []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
		why:       "time is an argument: a pure stage that reads the clock cannot be tested at another time, and two nodes would not agree",
	}, {
		path: "log/slog", name: "slog", // a secret says how it is logged, by LogValue
		forbidden: []string{
			"Debug", "DebugContext", "Info", "InfoContext", "Warn", "WarnContext", "Error", "ErrorContext", "Log", "LogAttrs",
			"Default", "SetDefault", "New", "With", "Logger", "NewTextHandler", "NewJSONHandler",
		},
		why: "a pure stage returns its problems; what is logged is decided by who called it",
	},
}

// CheckUses returns every place in the pure packages, and in those of the module's own that they
// reach, that reads the clock or logs.
func CheckUses(g Graph) ([]string, error) {
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
		found, err := breaking(p)
		if err != nil {
			return nil, err
		}
		places = append(places, found...)
	}
	slices.Sort(places)
	return places, nil
}

func breaking(p Package) ([]string, error) {
	var places []string
	for _, name := range p.GoFiles {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse a file of %s: %w", p.ImportPath, err)
		}
		for _, u := range uses {
			for _, at := range u.in(file) {
				places = append(places, fmt.Sprintf("%s/%s:%d uses %s\n    %s", short(p.ImportPath), name, fset.Position(at.pos).Line, at.what, u.why))
			}
		}
	}
	return places, nil
}

// place is where something forbidden is used.
type place struct {
	pos  token.Pos
	what string
}

// in finds the uses in a file. A local variable that has the name of the import is taken for it:
// name it otherwise.
func (u use) in(file *ast.File) []place {
	local, at := u.importedAs(file)
	switch local {
	case "":
		return nil
	case ".":
		return []place{{at, u.name + " with a dot, which hides what is used of it"}}
	}
	var places []place
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local && slices.Contains(u.forbidden, sel.Sel.Name) {
				places = append(places, place{n.Pos(), u.name + "." + sel.Sel.Name})
			}
		}
		return true
	})
	return places
}

// importedAs is the name under which a file imports the package, or empty.
func (u use) importedAs(file *ast.File) (string, token.Pos) {
	for _, spec := range file.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil && path == u.path {
			if spec.Name != nil {
				return spec.Name.Name, spec.Pos()
			}
			return u.name, spec.Pos()
		}
	}
	return "", token.NoPos
}
