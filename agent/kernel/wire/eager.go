//go:build linux

package wire

import "time"

// eager decides which requests are sent promptly (package prompt). The kernel may have to wait for another program's transaction,
// which is as long as that makes it, and where the agent has one processor nothing else of it runs until then. So once a
// request has taken long, none is sent so for a while.
type eager struct {
	until time.Time
}

const (
	// promptMost is the most bytes of a request that is sent promptly: some 30 elements, of which the kernel takes 100 us.
	promptMost = 4 << 10
	// promptLimit is what takes long: more than a busy node takes a thread's processor away for. patience is how long no request is
	// sent promptly then.
	promptLimit = 20 * time.Millisecond
	patience    = 10 * time.Minute
)

func (e *eager) may(size int, now time.Time) bool { return size <= promptMost && !now.Before(e.until) }

func (e *eager) took(d time.Duration, now time.Time) {
	if d > promptLimit {
		e.until = now.Add(patience)
	}
}
