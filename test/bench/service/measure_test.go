//go:build linux && bench

package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/bench/lab"
)

// figures are what one turn of one side gave.
type figures struct {
	cold                      time.Duration
	quiet, busy               []time.Duration
	rate                      float64
	cpuQuiet, cpuBusy         time.Duration // of a change
	idle                      float64       // CPU seconds a second
	rss                       float64
	direct, cluster, cluster6 []time.Duration
}

const (
	// sampled Services are watched during a cold start, besides the probe and the last made: with this
	// many, all but a few in a thousand Services are there when the last of them is.
	sampled = 400
	// coldLimit is more than kube-proxy needs for 10,000.
	coldLimit = 5 * time.Minute
	// effectLimit of one change.
	effectLimit = time.Minute
	// pollPause between two looks leaves the processor to whom is measured. It is the resolution.
	pollPause = 300 * time.Microsecond
	idleTime  = 5 * time.Second
	// churnEvery makes 100 changes a second.
	churnEvery = 10 * time.Millisecond
	connects   = 4000
	// spacing of quiet changes: kube-proxy waits at least a second between two runs, and a change
	// within that time would not be a quiet one. Ours has no such wait, and less rest makes it no easier.
	spacingOurs, spacingTheirs = 100 * time.Millisecond, 1200 * time.Millisecond
)

// measure takes one side's turn.
func (w *world) measure(t *testing.T, s *side, phase time.Duration) figures {
	t.Helper()
	var f figures
	began := time.Now()
	s.start(t)
	defer s.stop(t)
	steps := []func() error{
		func() (err error) { f.cold, err = w.awaitCold(began); return },
		func() (err error) { f.idle, err = idle(s.pid()); return },
		func() (err error) { return w.quiet(t.Context(), s, phase, &f) },
		func() (err error) { return w.busy(t.Context(), s, phase, &f) },
		func() (err error) { return w.connect(&f) },
		func() (err error) { u, err := lab.UsageOf(s.pid()); f.rss = u.RSS; return err },
	}
	for _, step := range steps {
		var err error
		s.node.NS.Do(t, func() { err = step() })
		if err != nil {
			t.Fatalf("%s with %d Services: %v", s.name, w.reached, err)
		}
	}
	w.settle(t)
	t.Logf("%s with %d Services: cold %.2f s, %d quiet and %d busy changes", s.name, w.reached, f.cold.Seconds(), len(f.quiet), len(f.busy))
	return f
}

// awaitCold waits until the sample answers.
func (w *world) awaitCold(began time.Time) (time.Duration, error) {
	waiting := []netip.Addr{w.probe.v4, w.probe.v6, w.addrs[w.reached-1], w.addrs[0]}
	for range sampled {
		waiting = append(waiting, w.addrs[rand.IntN(w.reached)])
	}
	for {
		waiting = unanswered(waiting)
		took := time.Since(began)
		if len(waiting) == 0 {
			return took, nil
		}
		if took > coldLimit {
			return 0, fmt.Errorf("%v and others do not answer after %v", waiting[0], coldLimit)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// unanswered drops those that answer. A few that do not are enough to know that it is not over, and
// the rest is asked another time.
func unanswered(waiting []netip.Addr) []netip.Addr {
	const enough = 8
	var still []netip.Addr
	for i, a := range waiting {
		if _, _, err := dial(a, servicePort); err != nil {
			still = append(still, a)
		}
		if len(still) == enough {
			return append(still, waiting[i+1:]...)
		}
	}
	return still
}

func idle(pid int) (float64, error) {
	time.Sleep(idleTime) // what was started may still be clearing up
	before, err1 := lab.UsageOf(pid)
	time.Sleep(idleTime)
	after, err2 := lab.UsageOf(pid)
	return spent(before, after).Seconds() / idleTime.Seconds(), errors.Join(err1, err2)
}

func spent(before, after lab.Usage) time.Duration {
	return after.CPU + after.Children - before.CPU - before.Children
}

// quiet changes the probe alone.
func (w *world) quiet(ctx context.Context, s *side, phase time.Duration, f *figures) error {
	spacing := spacingOurs
	if s.name != "Weftnet" {
		spacing = spacingTheirs
	}
	begin := time.Now()
	before, err := lab.UsageOf(s.pid())
	if err != nil {
		return err
	}
	for time.Since(begin) < phase {
		took, err := w.change(ctx)
		if err != nil {
			return err
		}
		f.quiet = append(f.quiet, took)
		time.Sleep(max(0, spacing-took))
	}
	after, err := lab.UsageOf(s.pid())
	own := spent(before, after) - time.Duration(f.idle*float64(time.Since(begin)))
	f.cpuQuiet = own / time.Duration(len(f.quiet))
	return err
}

// busy changes the probe while 100 other changes are made a second.
func (w *world) busy(ctx context.Context, s *side, phase time.Duration, f *figures) error {
	ctx, stop := context.WithTimeout(ctx, phase)
	defer stop()
	others := make(chan int, 1)
	begin := time.Now()
	before, err := lab.UsageOf(s.pid())
	if err != nil {
		return err
	}
	go func() { others <- w.churn(ctx, churnEvery) }()
	for ctx.Err() == nil {
		took, err := w.change(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		f.busy = append(f.busy, took)
		time.Sleep(50 * time.Millisecond)
	}
	made := <-others + len(f.busy)
	lasted := time.Since(begin)
	after, err := lab.UsageOf(s.pid())
	f.rate = float64(made) / lasted.Seconds()
	f.cpuBusy = (spent(before, after) - time.Duration(f.idle*float64(lasted))) / time.Duration(made)
	return err
}

// change turns the probe and waits until a connection ends at its new endpoint. The time is from the
// API server's answer.
func (w *world) change(ctx context.Context) (time.Duration, error) {
	want, err := w.turnProbe(ctx)
	if err != nil {
		return 0, err
	}
	for answered := time.Now(); ; {
		got, _, err := dial(w.probe.v4, servicePort)
		took := time.Since(answered)
		if err == nil && got == want {
			return took, nil
		}
		if took > effectLimit {
			return 0, fmt.Errorf("the probe's endpoint is %v and not %v after %v: %w", got, want, effectLimit, err)
		}
		time.Sleep(pollPause)
	}
}

// connect measures how long connect takes, directly and through Services, in turn.
func (w *world) connect(f *figures) error {
	for range connects {
		number := rand.IntN(w.reached)
		for _, one := range []struct {
			to   netip.Addr
			port uint16
			into *[]time.Duration
		}{
			{endpoint(number * 4), endpointPort, &f.direct},
			{w.addrs[number], servicePort, &f.cluster},
			{w.probe.v6, servicePort, &f.cluster6},
		} {
			_, took, err := dial(one.to, one.port)
			if err != nil {
				return fmt.Errorf("connect to %v: %w", one.to, err)
			}
			*one.into = append(*one.into, took)
		}
	}
	return nil
}

// dial connects, and returns the address that it has reached and how long connect took. It runs on
// the calling thread, which is in the node's namespace, and leaves no connection behind.
func dial(to netip.Addr, port uint16) (netip.Addr, time.Duration, error) {
	var address unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
	family := unix.AF_INET
	if to.Is4() {
		address = &unix.SockaddrInet4{Port: int(port), Addr: to.As4()}
	} else {
		address, family = &unix.SockaddrInet6{Port: int(port), Addr: to.As16()}, unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	if err != nil {
		return netip.Addr{}, 0, err
	}
	begin := time.Now()
	err = unix.Connect(fd, address)
	took := time.Since(begin)
	if err != nil {
		return netip.Addr{}, took, err
	}
	reached := make([]byte, 16)
	n, err := unix.Read(fd, reached)
	at, _ := netip.AddrFromSlice(reached[:max(n, 0)])
	return at, took, err
}
