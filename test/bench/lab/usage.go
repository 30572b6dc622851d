//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process has taken until now.
type Usage struct {
	// CPU time, of user and system together.
	CPU time.Duration
	// Children is the CPU time of the processes that it has started and that have ended.
	Children time.Duration
	// RSS is the resident memory, Private the part of it that is not of files (RssAnon), Peak the most
	// that was resident at a time; in MiB.
	RSS, Private, Peak float64
}

// UsageOf reads /proc.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, fmt.Errorf("read the CPU time: %w", err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const children = 13 // proc_pid_stat(5), 16 and 17, less the three before
	for _, i := range []int{children, children + 1} {
		ticks, err := strconv.Atoi(string(fields[i]))
		if err != nil {
			return u, fmt.Errorf("read the CPU time: %w", err)
		}
		u.Children += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 wherever Go runs on Linux
	}
	// The clock of all of the process's threads, to the nanosecond (CPUCLOCK_SCHED in the kernel's
	// posix-timers.h): ticks of 10 ms would hide a process that takes little.
	var now unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &now); err != nil {
		return u, fmt.Errorf("read the CPU time: %w", err)
	}
	u.CPU = time.Duration(now.Nano())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, fmt.Errorf("read the memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*float64{"VmRSS": &u.RSS, "RssAnon": &u.Private, "VmHWM": &u.Peak}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			return u, fmt.Errorf("read the memory: %w", err)
		}
		*into = kib / 1024
	}
	return u, nil
}
