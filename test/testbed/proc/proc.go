// Package proc starts processes that outlive the testbed's command and ends
// exactly those again: a process is known by its number, its start time and
// the machine's boot, so that a number used again is never mistaken for it.
package proc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Process names one process for good.
type Process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks since boot.
	Start uint64 `json:"start"`
	// Boot is the machine's boot id.
	Boot string `json:"boot"`
}

// Spec says what to start.
type Spec struct {
	Path string
	Args []string
	Env  []string // beside the testbed's own environment
	Dir  string
	// Log receives standard output and standard error, appended.
	Log string
	// NetNS is the network namespace to start in; empty means this one.
	NetNS string
	// Cloneflags are further namespaces to make.
	Cloneflags uintptr
	// Tied ends the process with the thread that starts it: the caller must
	// have locked its thread.
	Tied bool
}

// Start runs the program in a session of its own.
func Start(spec Spec) (Process, error) {
	if err := os.MkdirAll(filepath.Dir(spec.Log), 0o755); err != nil {
		return Process{}, fmt.Errorf("make the log folder: %w", err)
	}
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Process{}, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Dir = spec.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: spec.Cloneflags}
	if spec.Tied {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := keepInherited(); err != nil {
		return Process{}, err
	}
	if err := InNetNS(spec.NetNS, cmd.Start); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", filepath.Base(spec.Path), err)
	}
	p, err := Find(cmd.Process.Pid)
	// Reap it if it ends while this command still runs.
	go func() { _ = cmd.Wait() }()
	return p, err
}

// keepInherited keeps files that this command's caller has left open from what it starts. A process that outlives the
// command would hold them for its life, such as the lock of a `flock FILE testbed up`.
func keepInherited() error {
	const first = 3 // behind standard input, output and error
	if err := unix.CloseRange(first, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep the caller's open files from new processes (needs Linux 5.11): %w", err)
	}
	return nil
}

// InNetNS runs f on a thread that stands in the named network namespace.
func InNetNS(name string, f func() error) error {
	if name == "" {
		return f()
	}
	return Aside(func() error {
		there, err := netns.GetFromName(name)
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", name, err)
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return f()
	})
}

// Aside runs f, which may change the network namespace of its thread, on a thread that is brought back afterwards. The
// runtime cannot end a process's first thread: it would stay where f has left it, and the whole process would pass for one of
// that namespace, to be ended with it. Any other that cannot come back ends with its goroutine.
func Aside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("get the network namespace: %w", err)
			return
		}
		defer here.Close()
		err = f()
		if netns.Set(here) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Find reads the identity of a running process.
func Find(pid int) (Process, error) {
	stat, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	boot, err := BootID()
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: stat.start, Boot: boot}, nil
}

// BootID names this boot of the machine.
func BootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Alive says whether this very process still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	if boot, err := BootID(); err != nil || boot != p.Boot {
		return false
	}
	stat, err := readStat(p.PID)
	return err == nil && stat.start == p.Start && !stat.ended()
}

// Signal sends a signal, if this very process still runs.
func (p Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return os.ErrProcessDone
	}
	// The handle pins the process, so that a second look at its start time
	// closes the gap in which the number could pass to another.
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return fmt.Errorf("find process %d: %w", p.PID, err)
	}
	defer handle.Release() //nolint:errcheck // a handle only
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return handle.Signal(sig)
}

// Stop ends the process: a request first, after the grace period the kill.
func (p Process) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return ignoreDone(err)
		}
		soft, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if p.Wait(soft) == nil {
			return nil
		}
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return ignoreDone(err)
	}
	return p.Wait(ctx)
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Wait returns when the process has ended.
func (p Process) Wait(ctx context.Context) error {
	return Poll(ctx, 20*time.Millisecond, func() (bool, error) { return !p.Alive(), nil })
}

// Poll asks until the answer is yes, an error, or the context's end.
func Poll(ctx context.Context, every time.Duration, ask func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

type stat struct {
	state   byte
	threads int
	start   uint64
}

// ended tells whether nothing of the process runs any more. When its first thread has ended others may not have, and until the last
// has the process holds its files and ports.
func (s stat) ended() bool { return s.state == 'X' || s.state == 'Z' && s.threads <= 1 }

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return parseStat(string(text))
}

// parseStat reads /proc/PID/stat. The name in parentheses may hold anything,
// so the fields are counted from the last parenthesis.
func parseStat(text string) (stat, error) {
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("parse process status %q: no name", text)
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("parse process status %q: too short", text)
	}
	threads, err1 := strconv.Atoi(fields[17])
	start, err2 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return stat{}, fmt.Errorf("parse process status %q: %w", text, err)
	}
	return stat{state: fields[0][0], threads: threads, start: start}, nil
}
