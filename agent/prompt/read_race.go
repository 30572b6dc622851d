//go:build linux && race

package prompt

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Read is as without the race detector, which is told what has been written and that it comes after the other side's write.
func Read(fd uintptr, b []byte) (int, error) {
	for {
		if n, err := unix.Read(int(fd), b); !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
