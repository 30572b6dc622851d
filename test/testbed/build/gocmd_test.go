package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/test/testbed/progress"
)

func TestOutputTellsPackagesFromComplaints(t *testing.T) {
	d := progress.New(nil)
	defer d.Close()
	out := &output{task: d.Start("x")}
	if err := out.consume(strings.NewReader("go: downloading k8s.io/api v0.37.2\nruntime\nk8s.io/api/core/v1\n# k8s.io/x\nx.go:3:1: syntax error\n")); err != nil {
		t.Fatal(err)
	}
	if out.packages != 2 {
		t.Errorf("%d packages", out.packages)
	}
	if got := strings.Join(out.tail, "\n"); got != "# k8s.io/x\nx.go:3:1: syntax error" {
		t.Errorf("tail %q", got)
	}
	var long strings.Builder
	for i := range 3 * tailLines {
		fmt.Fprintf(&long, "error number %d\n", i)
	}
	if err := out.consume(strings.NewReader(long.String())); err != nil {
		t.Fatal(err)
	}
	if len(out.tail) != tailLines || out.tail[tailLines-1] != fmt.Sprintf("error number %d", 3*tailLines-1) {
		t.Errorf("kept %d lines, last %q", len(out.tail), out.tail[len(out.tail)-1])
	}
}

func TestTransient(t *testing.T) {
	for text, want := range map[string]bool{
		"go: k8s.io/api@v0.37.2: dial tcp 10.0.0.1:443: connect: connection refused": true,
		"x.go:3:1: undefined: y": false,
	} {
		if got := transient([]string{text}); got != want {
			t.Errorf("transient(%q) = %v", text, got)
		}
	}
}

// A real build of a module without dependencies, that fails and that succeeds.
func TestRunGo(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/probe\n\ngo 1.26.0\n")
	write("main.go", "package main\n\nfunc main() { undefinedName() }\n")
	d := progress.New(nil)
	defer d.Close()
	task := d.Start("probe")
	args := []string{"build", "-v", "-o", filepath.Join(dir, "probe"), "."}
	if err := runGo(t.Context(), dir, args, task); err == nil || !strings.Contains(err.Error(), "undefined: undefinedName") {
		t.Errorf("the compiler's complaint is not in the error: %v", err)
	}
	write("main.go", "package main\n\nfunc main() {}\n")
	if err := runGo(t.Context(), dir, args, task); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "probe")); err != nil {
		t.Error(err)
	}
}
