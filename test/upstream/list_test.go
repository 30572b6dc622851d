package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
)

func committed(t *testing.T) (root string, tests []string) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, listFile))
	if err != nil {
		t.Fatal(err)
	}
	return root, strings.Split(strings.TrimSpace(string(text)), "\n")
}

// TestPageIsWrittenFromTheList : the page cannot say other than what the sets do.
func TestPageIsWrittenFromTheList(t *testing.T) {
	root, tests := committed(t)
	have, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	want, err := withTables(have, tests)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Errorf("%s is not what the sets say: run `go run ./test/upstream --write-list`", page)
	}
}

// TestEveryTestIsInASetOrHasAReason : and never both.
func TestEveryTestIsInASetOrHasAReason(t *testing.T) {
	_, tests := committed(t)
	for _, test := range tests {
		var in []string
		for _, name := range []string{"sig-network", "serial", "netpol"} {
			if sets[name].in(test) {
				in = append(in, name)
			}
		}
		reason := reasonOf(test)
		if netpol := sets["netpol"].in(test); netpol {
			reason = ""
		}
		if (len(in) == 1) == (reason != "") || len(in) > 1 {
			t.Errorf("%s: in the sets %v, left out because %q", test, in, reason)
		}
		if sets["sig-network"].in(test) != (sets["services"].in(test) || sets["conformance"].in(test)) {
			t.Errorf("%s: services and conformance do not make up sig-network", test)
		}
	}
	used := map[string]bool{}
	for _, test := range tests {
		used[reasonOf(test)] = true
	}
	for _, o := range omissions {
		if !used[o.reason] {
			t.Errorf("no test is left out because %q: the pattern %s is stale", o.reason, o.pattern)
		}
	}
}

// TestConformanceIsWhole : 47 in Kubernetes 1.37, and none of them is left out.
func TestConformanceIsWhole(t *testing.T) {
	_, tests := committed(t)
	count := 0
	for _, test := range tests {
		if strings.Contains(test, "[Conformance]") {
			count++
			if !sets["conformance"].in(test) || !sets["sig-network"].in(test) {
				t.Errorf("%s is not run", test)
			}
		}
	}
	if count != 47 {
		t.Errorf("%d conformance tests in the list, want 47", count)
	}
}

func TestNames(t *testing.T) {
	const list = "The following spec names:\n    a/network/dns.go:1: [sig-network] DNS b\n    a/x.go:2: [sig-node] c\n    a/network/dns.go:9: [sig-network] DNS a: [x]\n\n"
	if got := names(list); len(got) != 2 || got[0] != "[sig-network] DNS a: [x]" {
		t.Errorf("%q", got)
	}
}
