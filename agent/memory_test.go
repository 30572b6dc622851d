//go:build linux

package main

import (
	"runtime/debug"
	"testing"
)

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
