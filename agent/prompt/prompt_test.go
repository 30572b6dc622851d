//go:build linux

package prompt

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T, kind int) (near, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func TestRead(t *testing.T) {
	near, far := pair(t, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	b := make([]byte, 8)
	if n, err := Read(uintptr(near), b); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("of nothing %d bytes are read, %v", n, err)
	}
	if _, err := unix.Write(far, []byte("here it is")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"here it ", "is"} {
		if n, err := Read(uintptr(near), b); err != nil || string(b[:n]) != want {
			t.Errorf("%q is read, %v; want %q", b[:n], err, want)
		}
	}
	if err := unix.Shutdown(far, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(uintptr(near), b); n != 0 || err != nil {
		t.Errorf("the end is %d bytes, %v", n, err)
	}
	if n, err := Read(uintptr(near), nil); n != 0 || err != nil {
		t.Errorf("no bytes are %d, %v", n, err)
	}
	if _, err := Read(^uintptr(0), b); !errors.Is(err, unix.EBADF) {
		t.Errorf("of no descriptor: %v", err)
	}
}

// TestDatagrams : one that is not there is not waited for, although the socket may block.
func TestDatagrams(t *testing.T) {
	near, far := pair(t, unix.SOCK_DGRAM)
	b := make([]byte, 8)
	if n, err := Receive(uintptr(near), b); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("of nothing %d bytes are received, %v", n, err)
	}
	for _, text := range []string{"one", "", "three"} {
		if err := Send(uintptr(far), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if n, err := Receive(uintptr(near), b); err != nil || string(b[:n]) != text {
			t.Errorf("%q is received, %v; want %q", b[:n], err, text)
		}
	}
	if err := Send(^uintptr(0), b); !errors.Is(err, unix.EBADF) {
		t.Errorf("to no descriptor: %v", err)
	}
}
