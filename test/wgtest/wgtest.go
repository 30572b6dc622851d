//go:build linux

// Package wgtest runs the real wireguard process in the namespaces of tests.
package wgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/wireguard/request"
	"github.com/weftnet/weftnet/wireguard/userspace"
)

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs tests and removes what Start has built. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if build.dir != "" {
		_ = os.RemoveAll(build.dir)
	}
	os.Exit(code)
}

// binaryVariable names the wireguard program where there is no Go to build it with.
const binaryVariable = "WEFTNET_WIREGUARD_BINARY"

func binary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv(binaryVariable); path != "" {
		return path
	}
	build.once.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "weftnet-wgtest-"); build.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", build.dir, "github.com/weftnet/weftnet/wireguard")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build the wireguard process: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		tb.Fatal(build.err)
	}
	return filepath.Join(build.dir, "wireguard")
}

var names atomic.Uint32

// DeviceName is a name that no other test on this machine has: wgctrl finds a device by its socket,
// and the directory of the sockets is one for all network namespaces.
func DeviceName() string { return fmt.Sprintf("weft%d%03d", os.Getpid(), names.Add(1)) }

// Process is a wireguard process in a namespace. It ends with the test.
type Process struct {
	// Dir has its requests.
	Dir string
	// Env is added to its environment at the next start.
	Env []string

	ns  *nstest.Namespace
	cmd *exec.Cmd
	out *bytes.Buffer

	requested []string
}

// Start runs a wireguard process in ns, without requests.
func Start(tb testing.TB, ns *nstest.Namespace, env ...string) *Process {
	tb.Helper()
	p := &Process{ns: ns, Dir: filepath.Join(tb.TempDir(), "wireguard"), Env: env}
	p.Restart(tb)
	tb.Cleanup(func() {
		p.Kill(tb)
		for _, name := range p.requested { // a process that is killed leaves its sockets
			_ = os.Remove(filepath.Join(userspace.SocketDir, name+".sock"))
		}
		if tb.Failed() {
			tb.Logf("wireguard process:\n%s", p.out)
		}
	})
	return p
}

// Restart starts the process again after Kill or Stop.
func (p *Process) Restart(tb testing.TB) {
	tb.Helper()
	path := binary(tb)
	if p.out == nil {
		p.out = &bytes.Buffer{}
	}
	var err error
	p.ns.Do(tb, func() { // a child is born in the namespace of the thread that makes it
		p.cmd = exec.Command(path, "-listen", "unix:"+filepath.Join(filepath.Dir(p.Dir), "http.sock"), "-request-dir", p.Dir)
		p.cmd.Env = append(os.Environ(), p.Env...)
		p.cmd.Stderr = p.out
		err = p.cmd.Start()
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// HTTPSocket is the unix socket of its probes and metrics.
func (p *Process) HTTPSocket() string { return filepath.Join(filepath.Dir(p.Dir), "http.sock") }

// PID of the running process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process as a crash would.
func (p *Process) Kill(tb testing.TB) { p.end(tb, syscall.SIGKILL) }

// Stop ends the process as kubelet would.
func (p *Process) Stop(tb testing.TB) { p.end(tb, syscall.SIGTERM) }

func (p *Process) end(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		tb.Errorf("signal the wireguard process: %v", err)
	}
	_ = p.cmd.Wait() // it was killed, which is an error to Wait
	p.cmd = nil
}

// Request asks for a device and waits until it can be configured through k.
func (p *Process) Request(tb testing.TB, k *wg.Kernel, name string) {
	tb.Helper()
	if err := request.Write(p.Dir, request.Request{Name: name, MTU: 1420}); err != nil {
		tb.Fatal(err)
	}
	p.requested = append(p.requested, name)
	p.Await(tb, k, name)
}

// Release takes a request back and waits until the device is gone, and its port with it.
func (p *Process) Release(tb testing.TB, k *wg.Kernel, name string) {
	tb.Helper()
	if err := request.Remove(p.Dir, name); err != nil {
		tb.Error(err)
	}
	Eventually(tb, 10*time.Second, func() error {
		_, err := k.Observe(context.WithoutCancel(tb.Context()), name) // a cleanup's context has ended
		if errors.Is(err, wg.ErrNoDevice) {
			return nil
		}
		return fmt.Errorf("device %s is still there (%w)", name, err)
	})
}

// Await waits until a device can be configured.
func (p *Process) Await(tb testing.TB, k *wg.Kernel, name string) {
	tb.Helper()
	Eventually(tb, 10*time.Second, func() error {
		_, err := k.Observe(tb.Context(), name)
		return err
	})
}

// Eventually asks until there is no error, and fails the test with the last one after the timeout.
func Eventually(tb testing.TB, timeout time.Duration, check func() error) {
	tb.Helper()
	deadline := time.After(timeout)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			tb.Fatalf("after %s still: %v", timeout, err)
		}
	}
}

// Log is what the process has written; it is complete once the process has ended.
func (p *Process) Log() string { return p.out.String() }
