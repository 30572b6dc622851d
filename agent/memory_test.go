//go:build linux

package main

import (
	"runtime/debug"
	"testing"
)

// TestWhileStarting : the start ends once, and who knows better is left alone.
func TestWhileStarting(t *testing.T) {
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	before := percent()
	told := 0
	over := whileStarting(func(string) string { return "" }, func() { told++ })
	if got := percent(); got != startGarbage {
		t.Errorf("%d %% while starting", got)
	}
	over()
	over()
	if told != 1 {
		t.Errorf("told %d times that the start is over", told)
	}
	if got := percent(); got != before {
		t.Errorf("%d %% after the start, want %d", got, before)
	}
	whileStarting(func(string) string { return "50" }, func() {})
	if got := percent(); got != before {
		t.Errorf("%d %% with GOGC set, want %d", got, before)
	}
}

func TestLimitMemory(t *testing.T) {
	none := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(none) })
	for name, row := range map[string]struct {
		env  map[string]string
		want int64
	}{
		"of the container": {map[string]string{"MEMORY_LIMIT": "536870912"}, 536870912 / 100 * memoryShare},
		"none":             {nil, none},
		"the runtime's":    {map[string]string{"MEMORY_LIMIT": "536870912", "GOMEMLIMIT": "1GiB"}, none},
		"nonsense":         {map[string]string{"MEMORY_LIMIT": "512Mi"}, none},
	} {
		debug.SetMemoryLimit(none)
		if got := limitMemory(func(key string) string { return row.env[key] }); got != row.want {
			t.Errorf("%s: limit is %d, want %d", name, got, row.want)
		}
	}
}
