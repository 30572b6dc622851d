//go:build linux

// Package proxydial opens connections in the name of another process: one in the cgroup and the
// network namespace that a test is about. What programs on a cgroup do to a socket, they do to those
// that its processes open; the connection itself can be handed on.
package proxydial

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/nstest"
)

// env makes a process of the test binary such a process.
const env = "WEFTNET_TEST_DIALS"

// channel is the descriptor that it finds its orders at.
const channel = 3

// Main does the other process's work, and says whether this is one. TestMain calls it first.
func Main() bool {
	if os.Getenv(env) == "" {
		return false
	}
	for {
		buffer := make([]byte, 4096)
		n, err := unix.Read(channel, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		var o order
		if err != nil || n == 0 || json.Unmarshal(buffer[:n], &o) != nil {
			return true
		}
		go o.dial()
	}
}

type order struct {
	ID               uint64
	Network, Address string
	Timeout          time.Duration
}

// result comes with the connection, or says why there is none.
type result struct {
	ID      uint64
	Text    string
	Errno   unix.Errno
	Timeout bool
}

// dial sends the result; that nobody may wait for it any more is no fault.
func (o order) dial() {
	r := result{ID: o.ID}
	var rights []byte
	c, err := net.DialTimeout(o.Network, o.Address, o.Timeout)
	if err == nil {
		defer c.Close()
		var f *os.File
		if f, err = c.(interface{ File() (*os.File, error) }).File(); err == nil {
			defer f.Close()
			rights = unix.UnixRights(int(f.Fd()))
		}
	}
	if err != nil {
		r.Text = err.Error()
		errors.As(err, &r.Errno)
		var timeout net.Error
		r.Timeout = errors.As(err, &timeout) && timeout.Timeout()
	}
	if text, err := json.Marshal(r); err == nil {
		_ = unix.Sendmsg(channel, text, rights, nil, 0)
	}
}

// Fault is an error of the other process, with what tells errors of a connection apart.
type Fault struct{ result }

func (f *Fault) Error() string { return f.Text }

// Is compares with the errno.
func (f *Fault) Is(target error) bool {
	errno, ok := target.(unix.Errno)
	return ok && f.Errno == errno
}

// Timeout is that of net.Error.
func (f *Fault) Timeout() bool { return f.result.Timeout }

// Temporary is that of net.Error.
func (f *Fault) Temporary() bool { return f.result.Timeout }

// Dialer is such a process. It ends with the test.
type Dialer struct {
	channel *os.File

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan<- answer
}

type answer struct {
	result
	fd int
}

// Start makes a process in a cgroup (version 2), named by its folder, and a network namespace.
func Start(t *testing.T, cgroup string, ns *nstest.Namespace) *Dialer {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "orders"), os.NewFile(uintptr(pair[1]), "orders")
	defer theirs.Close()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = append(os.Environ(), env+"=1"), os.Stderr, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("start a process in %s: %v", cgroup, err)
	}
	d := &Dialer{channel: ours, waiting: map[uint64]chan<- answer{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.receive(pair[0])
	}()
	t.Cleanup(func() {
		_ = unix.Shutdown(pair[0], unix.SHUT_RDWR) // ends both sides' reading
		<-done
		_ = cmd.Wait()
		_ = ours.Close()
	})
	return d
}

// Dial is net.DialTimeout, there. Several may be under way.
func (d *Dialer) Dial(network, address string, timeout time.Duration) (net.Conn, error) {
	result := make(chan answer, 1)
	d.mu.Lock()
	d.last++
	o := order{d.last, network, address, timeout}
	d.waiting[o.ID] = result
	d.mu.Unlock()
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if _, err := d.channel.Write(text); err != nil {
		return nil, fmt.Errorf("ask the process that dials: %w", err)
	}
	a, ok := <-result
	switch {
	case !ok:
		return nil, errors.New("the process that dials has ended")
	case a.fd < 0:
		return nil, &Fault{a.result}
	}
	f := os.NewFile(uintptr(a.fd), address)
	defer f.Close()
	return net.FileConn(f)
}

// receive hands results to who waits for them, until the channel ends.
func (d *Dialer) receive(channel int) {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := unix.Recvmsg(channel, text, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		a := answer{fd: -1}
		if err != nil || n == 0 || json.Unmarshal(text[:n], &a.result) != nil {
			break
		}
		a.fd = descriptor(rights[:m])
		d.mu.Lock()
		d.waiting[a.ID] <- a
		delete(d.waiting, a.ID)
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, w := range d.waiting {
		close(w)
		delete(d.waiting, id)
	}
}

// descriptor is the one that came along, or -1.
func descriptor(rights []byte) int {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	return fds[0]
}
