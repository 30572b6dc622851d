//go:build linux

package nstest

import (
	"io"
	"net"
	"testing"
)

// Relay makes a TCP address on the machine's loopback reachable at the same address in the
// namespace, for programs there that need an API server outside: TLS passes through unseen, so
// certificates and addresses stay as they are.
func (n *Namespace) Relay(tb testing.TB, address string) {
	tb.Helper()
	var listener net.Listener
	var err error
	n.Do(tb, func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		tb.Fatal(err)
	}
	relay(tb, listener, address)
}

// Relay makes a TCP address reachable at another one of this machine, from now on.
func Relay(tb testing.TB, near, far string) {
	tb.Helper()
	listener, err := net.Listen("tcp", near)
	if err != nil {
		tb.Fatal(err)
	}
	relay(tb, listener, far)
}

func relay(tb testing.TB, listener net.Listener, far string) {
	tb.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // closed with the test
			}
			go splice(near, far)
		}
	}()
}

// splice copies in both directions until either side ends.
func splice(near net.Conn, to string) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}
