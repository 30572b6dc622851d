//go:build linux

// Package prompt makes system calls that do not block, and does not tell the Go runtime that they might. Of any other call the
// runtime's monitor hears, a thread that is woken after a rest to see 20 us later whether the processor has to be given to
// another goroutine. What that thread costs is told in docs/service-proxy.md.
//
// A call that does block holds up whatever else would run on its processor, and with the garbage collector everything: use this for
// nothing else.
package prompt

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Send sends a datagram to the other end of a socket, the kernel where none is set for one of netlink.
func Send(fd uintptr, b []byte) error {
	_, err := again(func() (uintptr, unix.Errno) {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
		return n, errno
	})
	return err
}

// Receive reads a datagram that is there already. unix.EAGAIN is that there is none. It is not for a listing of netlink's: while
// it receives a part of one, the kernel makes the next, with the locks that this takes.
func Receive(fd uintptr, b []byte) (int, error) {
	return again(func() (uintptr, unix.Errno) {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		return n, errno
	})
}

// again repeats a call that a signal has interrupted.
func again(call func() (n uintptr, errno unix.Errno)) (int, error) {
	for {
		n, errno := call()
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
