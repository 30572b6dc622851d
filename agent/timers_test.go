//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const timersChild = "TEST_COARSE_TIMERS"

// TestCoarseTimers starts a process of this program that does what the agent does first, and asks its threads.
func TestCoarseTimers(t *testing.T) {
	if os.Getenv(timersChild) != "" {
		if err := coarseTimers(); err != nil {
			t.Fatal(err)
		}
		reportTimers(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCoarseTimers$", "-test.v")
	cmd.Env = append(os.Environ(), timersChild+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "threads asked") {
		t.Errorf("%v\n%s", err, out)
	}
}

// reportTimers fails unless every thread has the slack.
func reportTimers(t *testing.T) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v, %v: the runtime has several", threads, err)
	}
	want, asked := fmt.Sprint(timerSlack.Nanoseconds()), 0
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join("/proc", filepath.Base(thread), "timerslack_ns"))
		if errors.Is(err, os.ErrPermission) {
			continue // of another thread only root is told
		}
		if err != nil {
			t.Fatal(err)
		}
		asked++
		if got := strings.TrimSpace(string(text)); got != want {
			t.Errorf("thread %s has a slack of %s ns, want %s", filepath.Base(thread), got, want)
		}
	}
	if asked == 0 {
		t.Error("no thread was asked")
	}
	t.Logf("%d threads asked", asked)
}
