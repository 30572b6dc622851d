package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/test/harness"
)

// listFile holds the names of all tests of sig-network in the release that tools/kubernetes pins. The
// page docs/upstream.md is written from it, and each run compares it with what the suite has.
const listFile = "test/upstream/testdata/sig-network.txt"

// page is where a reader finds which tests are left out, and why.
const page = "docs/upstream.md"

// spec is a line of `e2e.test --list-tests`: a place in the source, and the name.
var spec = regexp.MustCompile(`^\s+\S+\.go:\d+: (\[sig-network\] .*)$`)

// names takes the tests of sig-network from the suite's own list.
func names(list string) []string {
	var out []string
	for line := range strings.Lines(list) {
		if m := spec.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// suiteTests asks the suite for the names of its tests.
func suiteTests(ctx context.Context, root string) ([]string, error) {
	out, err := harness.Command(ctx, root, nil, harness.Bin(root, "e2e.test"), "--list-tests")
	if err != nil {
		return nil, fmt.Errorf("list the suite's tests: %w", err)
	}
	tests := names(out)
	if len(tests) == 0 {
		return nil, fmt.Errorf("list the suite's tests: none of sig-network in %d bytes of output", len(out))
	}
	return tests, nil
}

// checkList fails when the suite has other tests than the list: then the list and the page are to be
// written anew, and what is new is to be looked at.
func checkList(ctx context.Context, root string) error {
	have, err := suiteTests(ctx, root)
	if err != nil {
		return err
	}
	want, err := os.ReadFile(filepath.Join(root, listFile))
	if err != nil {
		return fmt.Errorf("read the list of tests: %w", err)
	}
	if text := strings.Join(have, "\n") + "\n"; text != string(want) {
		return fmt.Errorf("%s is not what the suite has: run `go run ./test/upstream --write-list`, and look at the difference", listFile)
	}
	return nil
}

// writeList writes the list, and the page from it.
func writeList(ctx context.Context, root string) error {
	tests, err := suiteTests(ctx, root)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, listFile), []byte(strings.Join(tests, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("write the list of tests: %w", err)
	}
	path := filepath.Join(root, page)
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	text, err := withTables(have, tests)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

const (
	beginMark = "<!-- written by go run ./test/upstream --write-list -->\n"
	endMark   = "<!-- end of what is written -->\n"
)

// withTables puts the tables between the page's marks.
func withTables(page []byte, tests []string) ([]byte, error) {
	before, rest, ok1 := bytes.Cut(page, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("write the tables: the page lacks the lines %q and %q", beginMark, endMark)
	}
	return slices.Concat(before, []byte(beginMark+tables(tests)+endMark), after), nil
}

// tables are the sets with their size, and the tests left out under their reason.
func tables(tests []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d tests of sig-network:\n\n| set | tests |\n|---|---|\n", len(tests))
	for _, name := range setNames() {
		count := 0
		for _, test := range tests {
			if sets[name].in(test) {
				count++
			}
		}
		fmt.Fprintf(&b, "| `%s` | %d |\n", name, count)
	}
	for _, o := range omissions {
		var group []string
		for _, test := range tests {
			if reasonOf(test) == o.reason {
				group = append(group, test)
			}
		}
		fmt.Fprintf(&b, "\n**Left out: %s** (%d)\n\n", o.reason, len(group))
		for _, test := range group {
			fmt.Fprintf(&b, "- %s\n", strings.TrimPrefix(test, "[sig-network] "))
		}
	}
	return b.String()
}
