package main

import (
	"os"
	"path/filepath"
	"slices"
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
		for _, name := range []string{"sig-network", "serial", "netpol", "loadbalancer"} {
			if sets[name].in(test) {
				in = append(in, name)
			}
		}
		reason := reasonOf(test)
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

// TestPoliciesAreWhole : every test of NetworkPolicy runs but the three over SCTP, and each name in the
// dozen is that of a test.
func TestPoliciesAreWhole(t *testing.T) {
	_, tests := committed(t)
	for _, test := range tests {
		want := strings.Contains(test, "] Netpol ") && !strings.Contains(test, "using SCTP")
		if sets["netpol"].in(test) != want {
			t.Errorf("%s is run: %t, want %t", test, !want, want)
		}
		if sets["netpol-dozen"].in(test) && !want {
			t.Errorf("%s is in the dozen, and is no test of NetworkPolicy", test)
		}
	}
	for _, name := range netpolDozen {
		if !slices.ContainsFunc(tests, func(test string) bool { return strings.Contains(test, name) && sets["netpol-dozen"].in(test) }) {
			t.Errorf("no test has the name %q", name)
		}
	}
}

// TestEvictedIsATest : the cluster is made for it where a set has it.
func TestEvictedIsATest(t *testing.T) {
	_, tests := committed(t)
	if !slices.Contains(tests, evicted) || !sets["services"].in(evicted) || sets["dozen"].in(evicted) {
		t.Errorf("%q is no test of the set services alone", evicted)
	}
}

func TestSeveralSets(t *testing.T) {
	o, err := parse([]string{"--set=dozen,netpol-dozen"})
	if err != nil || len(o.runs) != 2 || o.runs[0].name != "dozen" || o.runs[1].set != sets["netpol-dozen"] {
		t.Errorf("%+v, %v", o.runs, err)
	}
	if o, err = parse([]string{"--focus=x", "--skip=y"}); err != nil || len(o.runs) != 1 || o.runs[0].set != (set{focus: "x", skip: "y"}) {
		t.Errorf("%+v, %v", o.runs, err)
	}
	if o, err = parse([]string{"--set=serial", "--skip=y"}); err != nil || o.runs[0].set != (set{focus: sets["serial"].focus, skip: "y", alone: true}) {
		t.Errorf("%+v, %v", o.runs, err)
	}
	o, err = parse([]string{"--helm-set=a.b=c", "--helm-set=d=e"})
	if err != nil || !slices.Equal(o.helm, []string{"--set", "a.b=c", "--set", "d=e"}) {
		t.Errorf("values for the chart: %q, %v", o.helm, err)
	}
	if _, err = parse([]string{"--set=dozen,nonsense"}); err == nil {
		t.Error("an unknown set is taken")
	}
}

func TestNames(t *testing.T) {
	const list = "The following spec names:\n    a/network/dns.go:1: [sig-network] DNS b\n    a/x.go:2: [sig-node] c\n    a/network/dns.go:9: [sig-network] DNS a: [x]\n\n"
	if got := names(list); len(got) != 2 || got[0] != "[sig-network] DNS a: [x]" {
		t.Errorf("%q", got)
	}
}
