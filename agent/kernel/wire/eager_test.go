//go:build linux

package wire

import (
	"testing"
	"time"
)

// TestEager : one request that has waited for another program's transaction is the last that holds the agent up for a while.
func TestEager(t *testing.T) {
	var e eager
	now := time.Unix(1_700_000_000, 0)
	ask := func(size int, want bool, when string) {
		t.Helper()
		if got := e.may(size, now); got != want {
			t.Errorf("%s, %d bytes: %t", when, size, got)
		}
	}
	ask(promptMost, true, "at first")
	ask(promptMost+1, false, "at first")
	e.took(promptLimit, now)
	ask(1, true, "after a prompt one")
	e.took(promptLimit+1, now)
	ask(1, false, "after one that took long")
	now = now.Add(patience - 1)
	ask(1, false, "a little before it is forgotten")
	now = now.Add(1)
	ask(1, true, "when it is forgotten")
	e.wait(now)
	ask(1, false, "after another program's")
}
