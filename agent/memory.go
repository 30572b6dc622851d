//go:build linux

package main

import (
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// memoryShare of the container's limit, in percent, is what the Go runtime may take before it collects
// garbage harder. The kernel charges the container for nftables elements and some buffers as well.
const memoryShare = 75

// limitMemory has the runtime stay below the container's limit, in bytes, that the chart hands over. It
// says what it is set to; whoever sets GOMEMLIMIT knows better.
func limitMemory(getenv func(string) string) int64 {
	if limit, err := strconv.ParseInt(getenv("MEMORY_LIMIT"), 10, 64); err == nil && limit > 0 && getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 100 * memoryShare)
	}
	return debug.SetMemoryLimit(-1)
}

const (
	// startGarbage is how much garbage may come together while the agent starts, in percent of the memory in use; the
	// runtime's own 100 makes a start with 10,000 Services take 5 % longer. The most memory that it takes is then 100 MiB and
	// not 75, within limitMemory.
	startGarbage = 300
	// startTime is when that ends at the latest: an agent that does not come to an end of its start has something else to do.
	startTime = time.Minute
)

// whileStarting has the runtime collect garbage less often until it is told that the start is over, which it then tells, too.
// Whoever sets GOGC knows better.
func whileStarting(getenv func(string) string, tell func()) (over func()) {
	end := func() {}
	if getenv("GOGC") == "" {
		before := debug.SetGCPercent(startGarbage)
		end = func() { debug.SetGCPercent(before) }
	}
	over = sync.OnceFunc(func() {
		end()
		tell()
	})
	time.AfterFunc(startTime, over)
	return over
}
