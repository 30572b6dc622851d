//go:build netns

package filter_test

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// moveLink moves a link of the thread's namespace to another.
func moveLink(name string, fd int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetNsFd(link, fd)
}

// segment is the maximum segment size that the other side announced.
func segment(c net.Conn) string {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return ""
	}
	rc, err := tcp.SyscallConn()
	if err != nil {
		return ""
	}
	size := 0
	_ = rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			size = int(info.Snd_mss)
		}
	})
	return fmt.Sprintf(", segment %d", size)
}
