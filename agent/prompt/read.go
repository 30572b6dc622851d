//go:build linux && !race

package prompt

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads from a descriptor that is set not to block. unix.EAGAIN is that there is nothing yet; 0 bytes are the end.
func Read(fd uintptr, b []byte) (int, error) {
	return again(func() (uintptr, unix.Errno) {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		return n, errno
	})
}
