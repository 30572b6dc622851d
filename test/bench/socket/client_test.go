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

	"github.com/weftnet/weftnet/test/bench/table"
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

// order is a number of connections, one after the other.
type order struct {
	To    netip.AddrPort
	Count int
}

// times are those of connect alone, in microseconds.
type times struct {
	P50, P99 float64
	Fault    string
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
	all := make([]float64, 0, o.Count)
	for range o.Count {
		took, err := connect(o.To)
		if err != nil {
			return times{Fault: fmt.Sprintf("connect to %s: %v", o.To, err)}
		}
		all = append(all, float64(took.Nanoseconds())/1000)
	}
	return times{P50: table.Quantile(all, 0.5), P99: table.Quantile(all, 0.99)}
}

// connect uses a socket that blocks, and ends it with a reset, so that no port stays in use.
func connect(to netip.AddrPort) (time.Duration, error) {
	family := unix.AF_INET
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: four(to)}
	if to.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	began := time.Now()
	err = unix.Connect(fd, address)
	return time.Since(began), err
}

func four(to netip.AddrPort) (b [4]byte) {
	if a := to.Addr().Unmap(); a.Is4() {
		b = a.As4()
	}
	return b
}
