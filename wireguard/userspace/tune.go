package userspace

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// Tune sets the runtime to what was measured to suit wireguard-go, but for what the environment
// (GOMAXPROCS, GOGC, GOMEMLIMIT) asks for, and says what it is.
func Tune() string {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(threads(runtime.NumCPU()))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	return fmt.Sprintf("GOMAXPROCS=%d GOMEMLIMIT=%dMiB", runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1)>>20)
}

const (
	gcPercent   = 100
	memoryLimit = 256 << 20
)

// threads: wireguard-go hands each packet from goroutine to goroutine, and on few cores waking
// another core for that costs more than its cryptography.
func threads(cores int) int {
	if cores <= 2 {
		return 1
	}
	return cores / 2
}
