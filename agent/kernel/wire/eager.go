//go:build linux

package wire

import (
	"sync/atomic"
	"time"
)

// eager decides which requests are sent promptly (package prompt). The kernel may have to wait for another program's transaction,
// which is as long as that makes it, and until then nothing else of the agent may run: with one processor at once, with more
// when garbage is collected. So once another program has made one, or a request has taken long, none is sent so for a while.
type eager struct {
	until atomic.Pointer[time.Time]
}

const (
	// promptMost is the most bytes of a request that is sent promptly: some 30 elements, of which the kernel takes 100 us.
	promptMost = 4 << 10
	// promptLimit is what takes long: more than a busy node takes a thread's processor away for. patience is how long no request is
	// sent promptly then.
	promptLimit = 20 * time.Millisecond
	patience    = 10 * time.Minute
)

func (e *eager) may(size int, now time.Time) bool {
	until := e.until.Load()
	return size <= promptMost && (until == nil || !now.Before(*until))
}

func (e *eager) took(d time.Duration, now time.Time) {
	if d > promptLimit {
		e.wait(now)
	}
}

func (e *eager) wait(now time.Time) {
	until := now.Add(patience)
	e.until.Store(&until)
}
