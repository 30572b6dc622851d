//go:build netns

package nstest

import (
	"runtime"
	"testing"
)

// TestTheProcessStaysWhereItIs: a process is in the namespace that its first thread is in, and some of many goroutines
// run on that one.
func TestTheProcessStaysWhereItIs(t *testing.T) {
	before := OfProcess(t)
	other := New(t)
	done := make(chan struct{})
	const many = 200
	for range many {
		go func() {
			defer func() { done <- struct{}{} }()
			other.Do(t, runtime.Gosched)
		}()
	}
	for range many {
		<-done
	}
	if after := OfProcess(t); after != before {
		t.Errorf("the process was in %s and is in %s", before, after)
	}
}
