//go:build linux

package pod

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on the calling goroutine's thread in the network namespace. Sockets that f opens
// stay in the namespace. A thread that cannot find its way back stays locked to the goroutine, and
// ends with it.
func inNamespace(fd int, f func() error) error {
	runtime.LockOSThread()
	home, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer unix.Close(home)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave the network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// currentNamespace opens the network namespace of the calling thread.
func currentNamespace() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return fd, nil
}

// namespaceID tells namespaces apart.
type namespaceID struct{ dev, ino uint64 }

func identify(fd int) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return namespaceID{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// IsNetworkNamespace tells whether the descriptor is one of a network namespace.
func IsNetworkNamespace(fd int) bool {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}
