package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
)

// TestLeavesOutOnlySCTP : the suite of the release that Weftnet is built with has the probe that is known.
func TestLeavesOutOnlySCTP(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := moduleFolder(t.Context(), root, clusterPolicyModule)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(ours, filepath.FromSlash(probeFile)))
	if err != nil {
		t.Fatal(err)
	}
	edited, err := leavingOutSCTP(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.Replace(edited, []byte(leaveOut), nil, 1), text) {
		t.Error("more than the exception was changed")
	}
	if _, err := leavingOutSCTP(edited[bytes.Index(edited, []byte(leaveOut)):]); err == nil {
		t.Error("a suite without the probe is taken for one that leaves SCTP out")
	}
}

// TestSuiteFitsTheProduct : the suite is of the release whose API the agent speaks.
func TestSuiteFitsTheProduct(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	ours, err1 := moduleFolder(t.Context(), root, clusterPolicyModule)
	suite, err2 := moduleFolder(t.Context(), filepath.Join(root, clusterPolicyTools), clusterPolicyModule)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if ours != suite {
		t.Errorf("the suite is %s, and the agent has %s: pin one version in go.mod and %s/go.mod", filepath.Base(suite), filepath.Base(ours), clusterPolicyTools)
	}
}
