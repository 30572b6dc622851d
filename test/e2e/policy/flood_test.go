//go:build e2e

package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

const (
	floodPort = 7000
	// ahead is how many addresses of each block are sent to: those that the node gives out next, with
	// some to spare.
	ahead = waveSize/nodes + 17
	// round is how often every address is sent to, and hot how long one that has just got a route is sent
	// to each millisecond. More would take the processor away from what starts the Pods.
	round = 250 * time.Millisecond
	hot   = 200 * time.Millisecond
)

// flood sends from the probe of each node.
type flood struct {
	to    []netip.Addr
	begin time.Time
	sent  atomic.Int64
	stop  func() floodReport

	mu    sync.Mutex
	fresh map[netip.Addr]time.Time
}

// floodReport is what was sent.
type floodReport struct {
	packets int64
	took    time.Duration
}

func (r floodReport) String() string {
	return fmt.Sprintf("%d packets and connections from %d senders in %s, %.0f/s each",
		r.packets, nodes, r.took.Round(time.Second/10), float64(r.packets)/r.took.Seconds()/nodes)
}

// startFlood sends to the addresses that nodes give out next: the last Pods of each have the ones before.
func startFlood(t *testing.T, last []corev1.Pod) *flood {
	t.Helper()
	f := &flood{fresh: map[netip.Addr]time.Time{}, begin: time.Now()}
	in, err := blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range last {
		for _, addr := range harness.Addresses(&last[i]) {
			f.to = append(f.to, following(t, in, addr)...)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range nodes {
		from := placeOf(t, &probes.Pods[i])
		f.watch(t, ctx, nstest.Open(t, "/run/netns/"+nodeName(i)))
		all.Go(func() { from.Do(t, func() { f.run(t, ctx) }) })
	}
	f.stop = sync.OnceValue(func() floodReport {
		cancel()
		all.Wait()
		return floodReport{f.sent.Load(), time.Since(f.begin)}
	})
	t.Cleanup(func() { f.stop() })
	return f
}

// following are the addresses behind one, in the ring of its block.
func following(t *testing.T, blocks []netip.Prefix, addr netip.Addr) []netip.Addr {
	t.Helper()
	i := slices.IndexFunc(blocks, func(p netip.Prefix) bool { return p.Contains(addr) })
	if i < 0 {
		t.Fatalf("%s is in no block", addr)
	}
	var out []netip.Addr
	for range ahead {
		if addr = addr.Next(); !blocks[i].Contains(addr) {
			addr = blocks[i].Addr()
		}
		out = append(out, addr)
	}
	return out
}

// watch makes the addresses that get a route on the node the hot ones.
func (f *flood) watch(t *testing.T, ctx context.Context, node *nstest.Namespace) {
	t.Helper()
	updates := make(chan netlink.RouteUpdate, 1024)
	if err := netlink.RouteSubscribeAt(netns.NsHandle(node.Fd()), updates, ctx.Done()); err != nil {
		t.Fatal(err)
	}
	go func() {
		for u := range updates {
			if u.Type != unix.RTM_NEWROUTE || u.Dst == nil {
				continue
			}
			if addr, ok := netip.AddrFromSlice(u.Dst.IP); ok {
				f.mu.Lock()
				f.fresh[addr.Unmap()] = time.Now().Add(hot)
				f.mu.Unlock()
			}
		}
	}()
}

// hots are the addresses that have just got a route.
func (f *flood) hots(now time.Time) []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []netip.Addr
	for addr, until := range f.fresh {
		if now.After(until) {
			delete(f.fresh, addr)
		} else {
			out = append(out, addr)
		}
	}
	return out
}

// run sends until the end, on a thread in the namespace.
func (f *flood) run(t *testing.T, ctx context.Context) {
	udp4, err4 := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	udp6, err6 := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err := errors.Join(err4, err6); err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = errors.Join(unix.Close(udp4), unix.Close(udp6)) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for next := time.Now(); ctx.Err() == nil; {
		now := time.Now()
		to := f.hots(now)
		if now.After(next) {
			to, next = f.to, now.Add(round)
		}
		for _, addr := range to {
			f.send(udp4, udp6, addr)
		}
		<-tick.C
	}
}

// send sends a datagram, and begins a connection. Before the Pod is there both fail, as they may.
func (f *flood) send(udp4, udp6 int, addr netip.Addr) {
	family, socket := unix.AF_INET, udp4
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: floodPort, Addr: [4]byte(addr.AsSlice()[:4])}
	if addr.Is6() {
		family, socket = unix.AF_INET6, udp6
		at = &unix.SockaddrInet6{Port: floodPort, Addr: addr.As16()}
	}
	_ = unix.Sendto(socket, []byte("x"), 0, at)
	f.sent.Add(2)
	if c, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
		_ = unix.Connect(c, at)
		_ = unix.Close(c)
	}
}

// covers requires that the addresses of the Pod were sent to.
func (f *flood) covers(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	for _, addr := range harness.Addresses(pod) {
		found := false
		for _, to := range f.to {
			found = found || to == addr
		}
		if !found {
			t.Errorf("nobody sent to %s of Pod %s", addr, pod.Name)
		}
	}
}
