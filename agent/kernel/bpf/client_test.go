//go:build linux

package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clientEnv makes a process of this test binary a client: programs work on processes of a cgroup, so
// what connects must be one.
const clientEnv = "WEFTNET_TEST_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		serve(os.Stdin, os.Stdout)
		return
	}
	m.Run()
}

// order is what a client shall do.
type order struct {
	To netip.AddrPort
	// Six makes the socket one of IPv6, whatever the address.
	Six bool
	UDP bool
	// Again connects the socket a second time, after it was disconnected.
	Again netip.AddrPort
	// Load connects again and again, until the next order.
	Load bool
	// Keep leaves the socket open, for the order Kept: to tell its names once more, and to close it.
	Keep, Kept bool
}

// reply is what became of it.
type reply struct {
	Errno       unix.Errno
	Call        string // that failed
	Peer, Local netip.AddrPort
	// Server is who answered, as it knows itself.
	Server string
	// Count is the number of connections, Servers who answered them.
	Count   int
	Servers map[string]int
}

// keptSocket is that of the latest order Keep.
var keptSocket int

// serve carries orders out until the input ends.
func serve(in io.Reader, out io.Writer) {
	orders, replies := make(chan order), json.NewEncoder(out)
	go func() {
		defer close(orders)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			var o order
			if json.Unmarshal(lines.Bytes(), &o) == nil {
				orders <- o
			}
		}
	}()
	for o := range orders {
		switch {
		case o.Kept:
			r := names(keptSocket)
			_ = unix.Close(keptSocket)
			_ = replies.Encode(r)
			continue
		case !o.Load:
			_ = replies.Encode(connect(o))
			continue
		}
		_ = replies.Encode(reply{})
		_ = replies.Encode(load(o, orders))
	}
}

// load connects until another order comes, or a connection fails.
func load(o order, stop <-chan order) reply {
	total := reply{Servers: map[string]int{}}
	for {
		select {
		case <-stop:
			return total
		default:
		}
		r := connect(o)
		if r.Errno != 0 {
			r.Count, r.Servers = total.Count, total.Servers
			<-stop
			return r
		}
		total.Count++
		total.Servers[r.Server]++
	}
}

func connect(o order) (r reply) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if o.Six || o.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	if o.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket", err)
	}
	if o.Keep {
		keptSocket = fd
	} else {
		defer unix.Close(fd)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5})
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	if err := unix.Connect(fd, sockaddr(o.To, family)); err != nil {
		return failed("connect", err)
	}
	if o.Again.IsValid() {
		_ = disconnect(fd)
		if err := unix.Connect(fd, sockaddr(o.Again, family)); err != nil {
			return failed("connect again", err)
		}
	}
	if r = names(fd); r.Errno == 0 && !o.UDP {
		b := make([]byte, 100)
		n, err := unix.Read(fd, b)
		if err != nil {
			return failed("read", err)
		}
		r.Server = string(b[:n])
	}
	return r
}

func names(fd int) (r reply) {
	peer, err1 := unix.Getpeername(fd)
	local, err2 := unix.Getsockname(fd)
	if err := errors.Join(err1, err2); err != nil {
		return failed("name", err)
	}
	r.Peer, r.Local = addrPort(peer), addrPort(local)
	return r
}

// disconnect is connect to AF_UNSPEC.
func disconnect(fd int) error {
	var raw [unix.SizeofSockaddrInet4]byte
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(len(raw)))
	if errno != 0 {
		return errno
	}
	return nil
}

func failed(call string, err error) reply {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return reply{Errno: errno, Call: call}
}

func sockaddr(a netip.AddrPort, family int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// addrPort leaves mapped addresses as they are.
func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
