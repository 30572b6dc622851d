//go:build linux

// Package ping measures the round trip between network namespaces, as ping does, which tells whole
// microseconds only: too few digits for what takes ten.
package ping

import (
	"encoding/binary"
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

// echoes of one measurement.
const echoes = 5000

// RoundTrip is the median of echoes, each sent from the namespace when the one before has come back, in
// microseconds.
func RoundTrip(from *nstest.Namespace, to netip.Addr) (float64, error) {
	done := make(chan error)
	var times []float64
	go func() {
		runtime.LockOSThread() // never unlocked: the thread has changed its namespace and ends here
		err := netns.Set(netns.NsHandle(from.Fd()))
		if err == nil {
			times, err = echo(to)
		}
		done <- err
	}()
	err := <-done
	return table.Median(times), err
}

// family is what differs between ICMP over IPv4 and over IPv6.
type family struct {
	domain, protocol int
	request, reply   byte
	header           int // what a read begins with
	address          unix.Sockaddr
}

func familyOf(to netip.Addr) family {
	if to.Is4() {
		return family{unix.AF_INET, unix.IPPROTO_ICMP, 8, 0, 20, &unix.SockaddrInet4{Addr: to.As4()}}
	}
	return family{unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129, 0, &unix.SockaddrInet6{Addr: to.As16()}}
}

// echo uses a socket that blocks: Go's poller would cost as much as the way.
func echo(to netip.Addr) ([]float64, error) {
	f := familyOf(to)
	socket, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, f.protocol)
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	second := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second); err != nil {
		return nil, fmt.Errorf("limit the wait for an answer: %w", err)
	}
	var times []float64
	for number := range echoes {
		began := time.Now()
		if err := f.one(socket, uint16(number)); err != nil {
			return nil, err
		}
		times = append(times, float64(time.Since(began).Nanoseconds())/1000)
	}
	return times, nil
}

// one sends a request and waits for its answer.
func (f family) one(socket int, number uint16) error {
	var packet [64]byte
	packet[0] = f.request
	binary.BigEndian.PutUint16(packet[6:], number)
	// The sum over type, code, identifier and number; the rest is zero. For ICMPv6 the kernel does it.
	binary.BigEndian.PutUint16(packet[2:], ^onesSum(uint16(f.request)<<8, number))
	if err := unix.Sendto(socket, packet[:], 0, f.address); err != nil {
		return fmt.Errorf("send an echo request: %w", err)
	}
	for {
		var answer [256]byte
		n, _, err := unix.Recvfrom(socket, answer[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue // of Go's scheduler; with a limit the kernel does not go on by itself
		}
		if err != nil {
			return fmt.Errorf("wait for an echo reply: %w", err)
		}
		if got := answer[f.header:]; n >= f.header+8 && got[0] == f.reply && binary.BigEndian.Uint16(got[6:]) == number {
			return nil
		}
	}
}

func onesSum(a, b uint16) uint16 {
	sum := uint32(a) + uint32(b)
	return uint16(sum + sum>>16)
}
