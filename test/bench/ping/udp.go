//go:build linux

package ping

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/bench/table"
	"github.com/weftnet/weftnet/test/nstest"
)

// echoPort is where the other side answers.
const echoPort = 5407

// UDP is RoundTrip with datagrams of a connection, as a request and its answer are, in place of ICMP's echoes; the
// other namespace has to have the address.
func UDP(from, other *nstest.Namespace, to netip.Addr) (float64, error) {
	server, err := udpSocket(other)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(server) }()
	if err := unix.Bind(server, sockaddr(netip.AddrPortFrom(netip.IPv6Unspecified(), echoPort))); err != nil {
		return 0, fmt.Errorf("bind the answering side: %w", err)
	}
	answered := make(chan error, 1)
	go func() { answered <- answer(server) }()
	client, err := udpSocket(from)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(client) }()
	if err := unix.Connect(client, sockaddr(netip.AddrPortFrom(to, echoPort))); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	var times []float64
	var packet [64]byte
	for range echoes {
		began := time.Now()
		if err := exchange(client, packet[:]); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(began).Nanoseconds())/1000)
	}
	return table.Median(times), <-answered
}

// udpSocket opens a socket of both families in a namespace, one that blocks.
func udpSocket(in *nstest.Namespace) (socket int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread has changed its namespace and ends here
		if err = netns.Set(netns.NsHandle(in.Fd())); err == nil {
			socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		}
	}()
	<-done
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	limit := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	return socket, unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// answer sends back what comes.
func answer(socket int) error {
	runtime.LockOSThread() // the same processor's caches for all of them
	defer runtime.UnlockOSThread()
	var packet [64]byte
	for n := 0; n < echoes; {
		size, from, err := unix.Recvfrom(socket, packet[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil {
			err = unix.Sendto(socket, packet[:size], 0, from)
		}
		if err != nil {
			return fmt.Errorf("answer datagram %d: %w", n, err)
		}
		n++
	}
	return nil
}

func exchange(socket int, packet []byte) error {
	if _, err := unix.Write(socket, packet); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	for {
		_, err := unix.Read(socket, packet)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for a datagram's answer: %w", err)
		}
		return nil
	}
}
