//go:build linux

package main

import (
	"runtime/debug"
	"strconv"
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
