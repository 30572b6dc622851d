//go:build linux && netns

package flow

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/poll"
)

// TestRestartLosesNothing: agents come and go, one after another, while a Pod sends to another all the time. The answers that
// let the connection take the fast path come first.
func TestRestartLosesNothing(t *testing.T) {
	for family, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2)
			l.apply(l.wanted())
			sender, receiver := l.stream(family)
			sent := make(chan int)
			stop := make(chan struct{})
			go func() {
				pace := time.NewTicker(500 * time.Microsecond)
				defer pace.Stop()
				n := 0
				for ; ; <-pace.C {
					select {
					case <-stop:
						sent <- n
						return
					default:
					}
					if _, err := sender.Write([]byte("one more")); err == nil {
						n++
					}
				}
			}()
			for range 20 {
				poll.Until(t, patience, "packets to take the fast path", func() error {
					if l.stats().Fast == 0 {
						return errors.New("none did")
					}
					return nil
				})
				l.kernel = l.newKernel()
				if err := l.kernel.Clear(); err != nil {
					t.Fatal(err)
				}
				l.apply(l.wanted())
			}
			close(stop)
			want, got := <-sent, 0
			packet := make([]byte, 64)
			for ; got < want; got++ {
				_ = receiver.SetReadDeadline(time.Now().Add(3 * time.Second))
				if _, err := receiver.Read(packet); err != nil {
					break
				}
			}
			if got != want {
				t.Errorf("%d of %d packets arrived", got, want)
			}
			t.Logf("%d packets", want)
		})
	}
}

// stream is a connection over UDP from the first Pod to the second, with room for all that comes, and answered once.
func (l *lab) stream(family int) (sender, receiver *net.UDPConn) {
	l.Helper()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.pods[1].Addresses[family], 7007))
	var err error
	l.spaces[1].Do(l, func() { receiver, err = net.ListenUDP("udp", to) })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = receiver.Close() })
	l.spaces[0].Do(l, func() { sender, err = net.DialUDP("udp", nil, to) })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = sender.Close() })
	raw, err := receiver.SyscallConn()
	if err != nil {
		l.Fatal(err)
	}
	var refused error
	err = raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	if err := errors.Join(err, refused); err != nil {
		l.Fatal(err)
	}
	packet := make([]byte, 64)
	poll.Until(l, patience, "an answer", func() error {
		if _, err := sender.Write([]byte("hello")); err != nil {
			return err
		}
		_ = receiver.SetReadDeadline(time.Now().Add(time.Second))
		_, from, err := receiver.ReadFromUDP(packet)
		if err != nil {
			return err
		}
		if _, err := receiver.WriteToUDP([]byte("welcome"), from); err != nil {
			return err
		}
		_ = sender.SetReadDeadline(time.Now().Add(time.Second))
		_, err = sender.Read(packet)
		return err
	})
	return sender, receiver
}
