//go:build linux && bench

package socket

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clientEnv makes a process of this test binary a client: the programs work on processes of a cgroup.
const clientEnv = "WEFTNET_BENCH_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		serve(os.Stdin, os.Stdout)
		return
	}
	m.Run()
}

// order is a number of connections, one after the other, after a few that do not count: a process that
// has its turn again begins with cold caches.
type order struct {
	To          netip.AddrPort
	Warm, Count int
}

// times are those of the calls connect and close, in microseconds.
type times struct {
	Connect, Close []float64
	Fault          string
}

func serve(in io.Reader, out io.Writer) {
	runtime.LockOSThread()
	orders, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if orders.Decode(&o) != nil {
			return
		}
		_ = replies.Encode(measure(o))
	}
}

func measure(o order) times {
	var t times
	for i := range o.Warm + o.Count {
		opened, closed, err := connect(o.To)
		if err != nil {
			return times{Fault: fmt.Sprintf("connect to %s: %v", o.To, err)}
		}
		if i >= o.Warm {
			t.Connect = append(t.Connect, micros(opened))
			t.Close = append(t.Close, micros(closed))
		}
	}
	return t
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// connect uses a socket that blocks, and ends it with a reset, so that no port stays in use.
func connect(to netip.AddrPort) (opened, closed time.Duration, err error) {
	family := unix.AF_INET
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: four(to)}
	if to.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	began := time.Now()
	if err == nil {
		err = unix.Connect(fd, address)
	}
	opened = time.Since(began)
	began = time.Now()
	_ = unix.Close(fd)
	return opened, time.Since(began), err
}

func four(to netip.AddrPort) (b [4]byte) {
	if a := to.Addr().Unmap(); a.Is4() {
		b = a.As4()
	}
	return b
}
