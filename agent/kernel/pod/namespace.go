//go:build linux

package pod

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread that is in the network namespace, and waits for it. Sockets that
// f opens stay in the namespace. A thread that cannot find its way back ends with its goroutine.
func inNamespace(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := enter(fd)
		if err != nil {
			done <- err
			return // the thread is not unlocked, and so ends
		}
		err = f()
		if back() == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func enter(fd int) (back func() error, err error) {
	home, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		_ = unix.Close(home)
		return nil, fmt.Errorf("enter the network namespace: %w", err)
	}
	return func() error {
		defer unix.Close(home)
		return unix.Setns(home, unix.CLONE_NEWNET)
	}, nil
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
