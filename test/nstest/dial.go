//go:build linux

package nstest

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialPatience is how long a busy machine may take over what needs no second try.
const dialPatience = 10 * time.Second

// DialOnce makes a TCP connection whose first packet must be answered: it is an error when the kernel
// had to send it again, however soon that was answered. That a short deadline would find out too, but it
// takes a busy machine for a lost packet.
func (n *Namespace) DialOnce(tb testing.TB, address string) (net.Conn, error) {
	tb.Helper()
	var c net.Conn
	var err error
	n.Do(tb, func() { c, err = net.DialTimeout("tcp", address, dialPatience) })
	if err != nil {
		return nil, err
	}
	again, err := retransmits(c.(*net.TCPConn))
	if err == nil && again > 0 {
		err = fmt.Errorf("connect to %s: the first packet was sent %d times more", address, again)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func retransmits(c syscall.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var ierr error
	if err := raw.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return 0, err
	}
	if ierr != nil {
		return 0, fmt.Errorf("read what the kernel knows of a connection: %w", ierr)
	}
	return info.Total_retrans, nil
}
