package main

import (
	"slices"
	"testing"
)

// TestSummary : the tests that were not chosen are in the suite's report too, and what the suite does
// before and after them.
func TestSummary(t *testing.T) {
	const content = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites><testsuite name="Kubernetes e2e suite" tests="7">
  <testcase name="[SynchronizedBeforeSuite]" status="passed"></testcase>
  <testcase name="[It] [sig-network] a" status="passed"></testcase>
  <testcase name="[It] [sig-network] b" status="failed"><failure message="x"></failure></testcase>
  <testcase name="[It] [sig-network] c" status="timedout"></testcase>
  <testcase name="[It] [sig-node] d" status="skipped"><skipped message="skipped"></skipped></testcase>
  <testcase name="[It] [sig-network] e" status="skipped"><skipped message="skipped - need two nodes"></skipped></testcase>
  <testcase name="[SynchronizedAfterSuite]" status="failed"></testcase>
</testsuite></testsuites>`
	var s summary
	if err := s.add([]byte(content)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"x: 1 passed, 3 failed, 1 skipped themselves",
		"  failed: [SynchronizedAfterSuite]: failed",
		"  failed: [sig-network] b: failed",
		"  failed: [sig-network] c: timedout",
		"  skipped: [sig-network] e: need two nodes",
	}
	if got := s.lines("x"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := s.add([]byte("nonsense")); err == nil {
		t.Error("a report that cannot be read is taken")
	}
	if _, err := summarize(t.TempDir()); err == nil {
		t.Error("a run without a report is taken")
	}
}
