// Package poll waits in tests for what comes about by itself: it looks again and again, and never waits for a time that
// somebody guessed.
package poll

import (
	"testing"
	"time"
)

// The pause between two looks doubles: what takes a moment is seen at once, and a slow machine is not kept from its work.
const (
	firstPause   = time.Millisecond
	longestPause = 100 * time.Millisecond
)

// Until looks until check finds nothing wrong. It fails the test with what was wrong last when limit is over.
func Until(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.After(limit)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := check()
		if err == nil {
			return
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-deadline:
			again.Stop()
			tb.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}
