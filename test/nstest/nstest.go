//go:build linux

// Package nstest gives tests network namespaces of their own, so that what they do to links,
// routes and rules never reaches the machine they run on.
package nstest

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that ends with the test that made it.
type Namespace struct {
	handle netns.NsHandle
}

// RequireRoot stops a test that cannot make namespaces, with the reason.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("this test makes network namespaces and must run as root; run it through `make test-netns`")
	}
}

// New makes a network namespace with its loopback up.
func New(tb testing.TB) *Namespace {
	tb.Helper()
	RequireRoot(tb)
	var ns *Namespace
	var err error
	onOwnThread(func() {
		var h netns.NsHandle
		if h, err = netns.New(); err != nil {
			return
		}
		ns = &Namespace{handle: h}
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
		}
	})
	if err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	tb.Cleanup(func() { _ = ns.handle.Close() })
	return ns
}

// Fd is the namespace's file descriptor, for calls such as netlink's LinkSetNsFd. It stays open
// until the test ends.
func (n *Namespace) Fd() int { return int(n.handle) }

// Do runs f on a thread inside the namespace and waits for it. Sockets opened in f stay bound to
// the namespace after it returns. f must not call FailNow (use Error, or return what it found).
func (n *Namespace) Do(tb testing.TB, f func()) {
	tb.Helper()
	var err error
	onOwnThread(func() {
		if err = netns.Set(n.handle); err == nil {
			f()
		}
	})
	if err != nil {
		tb.Fatalf("enter the network namespace: %v", err)
	}
}

// onOwnThread runs f on a locked thread that is thrown away afterwards, since a thread that has
// changed its namespace must not go back to the scheduler. It is never the process's first, which the
// runtime cannot end: it would stay in the namespace, and with it what others take for the process's.
func onOwnThread(f func()) {
	done := make(chan struct{})
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go run() // on another thread, while this one is held
			<-done
			runtime.UnlockOSThread()
			return
		}
		defer close(done) // never unlocked: the runtime ends the thread with the goroutine
		f()
	}
	go run()
	<-done
}

// OfProcess names the network namespace that others take for this process's: that of its first thread.
func OfProcess(tb testing.TB) string {
	tb.Helper()
	name, err := os.Readlink("/proc/self/ns/net") // of the first thread, whoever asks
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

// Open opens a namespace that is there by its file: of a node of the testbed
// (/run/netns/NAME), or of a process (/proc/PID/ns/net).
func Open(tb testing.TB, path string) *Namespace {
	tb.Helper()
	RequireRoot(tb)
	h, err := netns.GetFromPath(path)
	if err != nil {
		tb.Fatalf("open the network namespace %s: %v", path, err)
	}
	tb.Cleanup(func() { _ = h.Close() })
	return &Namespace{handle: h}
}
