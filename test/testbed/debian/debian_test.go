package debian

import (
	"slices"
	"strings"
	"testing"
)

func TestNeedsAreSortedAndUnique(t *testing.T) {
	all, err := Needs(Kernel, Cluster, Cluster)
	if err != nil {
		t.Fatal(err)
	}
	names := packagesOf(all)
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("needs: %v", names)
	}
	if _, err := Needs("cooking"); err == nil {
		t.Error("an unknown purpose was accepted")
	}
}

func TestAdviceNamesEveryMissingProgram(t *testing.T) {
	all, err := Needs(Cluster)
	if err != nil {
		t.Fatal(err)
	}
	missing := Missing(all, func(probe string) bool { return probe != "runc" && probe != "nft" })
	if got := packagesOf(missing); !slices.Equal(got, []string{"nftables", "runc"}) {
		t.Fatalf("missing %v", got)
	}
	text := advice(missing, "not root")
	for _, want := range []string{"not root", "  nft ", "  runc ", "--no-install-recommends nftables runc\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestIsDebian(t *testing.T) {
	for text, want := range map[string]bool{
		"NAME=\"Debian GNU/Linux\"\nID=debian\n":    true,
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n": true,
		"ID=fedora\n": false,
		"ID=x\nHOME_URL=debian\nPRETTY_NAME=\"not debian\"\n": false,
	} {
		if got := isDebian(text); got != want {
			t.Errorf("isDebian(%q) = %v", text, got)
		}
	}
}

func TestAllCandidates(t *testing.T) {
	known := "runc:\n  Installed: (none)\n  Candidate: 1.1.5+ds1-1\n  Version table:\n"
	unknown := "runc:\n  Installed: (none)\n  Candidate: (none)\n"
	if !allCandidates(known, 1) || allCandidates(known, 2) || allCandidates(unknown, 1) || allCandidates("", 1) {
		t.Error("candidates are not told apart")
	}
}
