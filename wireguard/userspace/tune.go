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

// Measured by TestTuning on 2 cores, CPU seconds of both ends per Gbit of TCP with 1 and 4 streams,
// and resident memory after it, medians of 3 on a busy machine:
//
//	GOMAXPROCS=2                      0.79  0.91  211 MiB
//	GOMAXPROCS=1                      0.63  0.81  215 MiB
//	GOMAXPROCS=1 GOMEMLIMIT=256MiB    0.65  0.79  177 MiB
//	GOMAXPROCS=1 GOMEMLIMIT=192MiB    0.61  0.86  140 MiB
//	GOMAXPROCS=1 GOMEMLIMIT=64MiB     2.28  2.98   33 MiB (an earlier run: it collects garbage all the time)
//
// On a quieter machine one thread carried 2.3 Gbit/s and two 1.1. Other values of GOGC changed
// nothing that could be seen. The memory is wireguard-go's buffers, 64 KiB each for packets of 1.5.
const (
	gcPercent   = 100
	memoryLimit = 256 << 20
)

// threads: wireguard-go hands each packet from goroutine to goroutine, and on few cores waking
// another core for that costs more than its cryptography. Above 2 cores nothing was measured: half
// of them leaves the rest to the Pods.
func threads(cores int) int { return max(1, cores/2) }
