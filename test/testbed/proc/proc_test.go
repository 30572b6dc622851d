package proc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	text := "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 987654 1 2 3"
	got, err := parseStat(text)
	if err != nil || got.state != 'S' || got.threads != 9 || got.start != 987654 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", strings.Replace(text, "987654", "x", 1)} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// TestLastThreadEndsTheProcess : a killed program has its ports as long as one of its threads is not gone.
func TestLastThreadEndsTheProcess(t *testing.T) {
	for s, want := range map[stat]bool{
		{state: 'R', threads: 1}: false, {state: 'S', threads: 9}: false, {state: 'Z', threads: 2}: false, {state: 'Z', threads: 1}: true,
		{state: 'X', threads: 0}: true, {state: 'Z', threads: 0}: true,
	} {
		if got := s.ended(); got != want {
			t.Errorf("%c with %d threads has ended: %t", s.state, s.threads, got)
		}
	}
}

func TestCgroupsContain(t *testing.T) {
	text := "5:pids:/tb-node1/kubepods/pod1/abc\n0::/other\n"
	for group, want := range map[string]bool{
		"/tb-node1": true, "/tb-node": false, "/other": true, "/tb-node1/kubepods/pod1/abc": true, "/kubepods": false,
	} {
		if got := cgroupsContain(text, group); got != want {
			t.Errorf("%s: got %v", group, got)
		}
	}
}

func start(t *testing.T, args ...string) Process {
	t.Helper()
	p, err := Start(Spec{Path: args[0], Args: args[1:], Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	return p
}

func TestStopEndsTheProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := start(t, "/bin/sh", "-c", "trap '' TERM; echo ready; while :; do read line; done < /dev/zero")
	if !p.Alive() {
		t.Fatal("a started process is not alive")
	}
	if err := p.Stop(ctx, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Fatal("a stopped process is alive")
	}
	if err := p.Stop(ctx, time.Second); err != nil {
		t.Fatalf("a second stop: %v", err)
	}
}

func TestReusedNumberIsAnotherProcess(t *testing.T) {
	p := start(t, "/bin/sleep", "600")
	for name, other := range map[string]Process{
		"other start": {PID: p.PID, Start: p.Start + 1, Boot: p.Boot},
		"other boot":  {PID: p.PID, Start: p.Start, Boot: "another"},
		"nobody":      {},
	} {
		if other.Alive() {
			t.Errorf("%s: alive", name)
		}
		if err := other.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: signal gave %v", name, err)
		}
	}
	if !p.Alive() {
		t.Error("the process was ended in another's name")
	}
}

func TestLogAndProgram(t *testing.T) {
	log := filepath.Join(t.TempDir(), "deep", "log")
	p, err := Start(Spec{Path: "/bin/sh", Args: []string{"-c", "echo $GREETING; exec sleep 600"}, Env: []string{"GREETING=hello"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Signal(syscall.SIGKILL) //nolint:errcheck // may have ended
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = Poll(ctx, time.Millisecond, func() (bool, error) {
		text, err := os.ReadFile(log)
		return string(text) == "hello\n" && Program(p.PID) != "sh", err
	})
	if err != nil {
		t.Fatalf("wait for the log: %v", err)
	}
}

// TestInheritedLockIsNotHeld has a file locked that this process leaves open to its children, as a shell does, and
// requires that the lock ends with us.
func TestInheritedLockIsNotHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	inherited, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(inherited, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	p := start(t, "/bin/sleep", "600")
	if err := unix.Close(inherited); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// Between fork and exec the child has it still.
	if err := Poll(ctx, time.Millisecond, func() (bool, error) { return Program(p.PID) == "sleep", nil }); err != nil {
		t.Fatal(err)
	}
	again, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close() //nolint:errcheck // read only
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the started process holds its starter's lock: %v", err)
	}
}
