package userspace

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// openTUN makes a TUN link that outlives this process, or attaches to the one that is there.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunPath, err)
	}
	if err := attach(fd, name); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunPath), nil
}

func attach(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("make TUN link %s: %w", name, err)
	}
	// With VNET_HDR the kernel hands over whole TCP segments up to 64 KiB, which is most of the
	// speed of wireguard-go.
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("make TUN link %s: %w", name, explain(err))
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep TUN link %s: %w", name, err)
	}
	return unix.SetNonblock(fd, true) // before the file is made, so that reads can be cancelled
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("another process has it: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("a link of another type has the name: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("CAP_NET_ADMIN is missing: %w", err)
	}
	return err
}

func setPersistent(file *os.File, persistent bool) error {
	value := 0
	if persistent {
		value = 1
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) { ioctlErr = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, value) })
	return errors.Join(err, ioctlErr)
}
