//go:build linux && bench

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/bench/ping"
	"github.com/weftnet/weftnet/test/nstest"
)

const (
	seconds    = 1 // of each stream
	connects   = 2000
	acceptPort = 9000
)

type report struct {
	Error string `json:"error"`
	End   struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Packets int `json:"packets"`
			Lost    int `json:"lost_packets"`
		} `json:"sum"`
	} `json:"end"`
}

func stream(ctx context.Context, from *nstest.Namespace, to netip.Addr) (float64, error) {
	r, err := runIperf(ctx, from, to, "-t", strconv.Itoa(seconds))
	return r.End.Received.BitsPerSecond / 1e9, err
}

// smallPackets sends 64-byte datagrams as fast as it can and counts those that arrive.
func smallPackets(ctx context.Context, from *nstest.Namespace, to netip.Addr) (float64, error) {
	r, err := runIperf(ctx, from, to, "-t", strconv.Itoa(seconds), "-u", "-b", "0", "-l", "64")
	return float64(r.End.Sum.Packets-r.End.Sum.Lost) / seconds / 1000, err
}

func runIperf(ctx context.Context, from *nstest.Namespace, to netip.Addr, args ...string) (report, error) {
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), from.Fd())
	args = append([]string{path, "iperf3", "-J", "-c", to.String()}, args...)
	out, err := exec.CommandContext(ctx, "nsenter", args...).Output()
	var r report
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		return r, fmt.Errorf("read the report of iperf3: %w (it ended with %w): %s", jerr, err, out)
	}
	if r.Error != "" {
		return r, fmt.Errorf("iperf3: %s", r.Error)
	}
	return r, err
}

func roundTrip(_ context.Context, from *nstest.Namespace, to netip.Addr) (float64, error) {
	return ping.RoundTrip(from, to)
}

// connections is how many can be made in a second, one after the other, in thousands.
func connections(_ context.Context, from *nstest.Namespace, to netip.Addr) (float64, error) {
	return inside(from, func() (float64, error) {
		began := time.Now()
		for range connects {
			if err := connect(netip.AddrPortFrom(to, acceptPort)); err != nil {
				return 0, err
			}
		}
		return connects / time.Since(began).Seconds() / 1000, nil
	})
}

// connect uses a socket that blocks: Go's poller would cost as much as the way. It ends with a reset, so that
// no port stays in use.
func connect(to netip.AddrPort) error {
	family := unix.AF_INET6
	var address unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set how the socket ends: %w", err)
	}
	for {
		if err = unix.Connect(fd, address); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	return nil
}

// inside runs f on a thread in a namespace.
func inside(ns *nstest.Namespace, f func() (float64, error)) (value float64, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread has changed its namespace and ends here
		if err = netns.Set(netns.NsHandle(ns.Fd())); err == nil {
			value, err = f()
		}
	}()
	<-done
	return value, err
}
