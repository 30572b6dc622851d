//go:build linux && bench

package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/bench/lab"
)

// figures are what one turn of one side gave.
type figures struct {
	cold, restart             time.Duration
	quiet, busy               []time.Duration
	rate                      float64
	cpuQuiet, cpuBusy         time.Duration // of a change
	idle                      float64       // CPU seconds a second
	rss, peak, peakRestart    float64       // MiB
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
	// coldPatience for one connection during a cold start. One whose SYN meets rules that do not have its Service yet is
	// dropped, and would be tried again by the kernel after a second: whoever waits for it measures that second. It is
	// the resolution of a cold start, and many times what a connection takes.
	coldPatience = 10 * time.Millisecond
	// patience for a connection otherwise.
	patience = time.Second
	// pollPause between two looks leaves the processor to whom is measured. It is the resolution.
	pollPause = 300 * time.Microsecond
	// settleTime after a start, in which garbage may be collected, and idleTime that is measured then.
	settleTime, idleTime = 3 * time.Second, 5 * time.Second
	// churnEvery makes 100 changes a second.
	churnEvery = 10 * time.Millisecond
	// connects of each kind on each side, in blocks between which the sides change.
	blocks, blockSize = 40, 150
)

// measure takes one side's turn, and leaves its rules in force without it.
func (w *world) measure(t *testing.T, s *side, phase time.Duration) figures {
	t.Helper()
	var f figures
	do := func(what string, step func() error) {
		t.Helper()
		var err error
		s.node.NS.Do(t, func() { err = step() })
		if err != nil {
			t.Fatalf("%s with %d Services: %s: %v", s.name, w.size(), what, err)
		}
	}
	began := time.Now()
	s.start(t)
	do("start", func() (err error) { f.cold, err = w.awaitCold(began); return })
	w.say(t, "%s: %d Services after %.2f s", s.name, w.size(), f.cold.Seconds())
	do("idle", func() (err error) { f.idle, err = idle(s.pid()); return })
	do("quiet changes", func() error { return w.quiet(t.Context(), s, phase, &f) })
	w.say(t, "%s: %d quiet changes", s.name, len(f.quiet))
	do("many changes", func() error { return w.busy(t.Context(), s, phase, &f) })
	w.say(t, "%s: %d of %.0f changes a second", s.name, len(f.busy), f.rate)
	do("memory", func() error {
		u, err := lab.UsageOf(s.pid())
		f.rss, f.peak = u.RSS, u.Peak
		return err
	})
	do("restart", func() (err error) { f.restart, err = w.again(t, s); return })
	do("memory", func() error {
		u, err := lab.UsageOf(s.pid())
		f.peakRestart = u.Peak
		return err
	})
	s.stop(t)
	w.say(t, "%s: restarted in %.2f s", s.name, f.restart.Seconds())
	return f
}

// again restarts the proxy, and waits until what has changed meanwhile is in force.
func (w *world) again(t *testing.T, s *side) (time.Duration, error) {
	t.Helper()
	s.stop(t)
	want, err := w.turnProbe(t.Context())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	s.restart(t)
	return w.awaitProbe(began, want, coldLimit)
}

// awaitCold waits until the sample answers.
func (w *world) awaitCold(began time.Time) (time.Duration, error) {
	waiting := []netip.Addr{w.probe.v4, w.probe.v6, clusterIP(w.size() - 1), clusterIP(0)}
	for range sampled {
		waiting = append(waiting, clusterIP(rand.IntN(w.size())))
	}
	slices.SortFunc(waiting, netip.Addr.Compare) // who programs them by their names leaves nothing to be asked behind the last
	for {
		waiting = unanswered(waiting)
		took := time.Since(began)
		if len(waiting) == 0 {
			return took, nil
		}
		if took > coldLimit {
			return 0, fmt.Errorf("%v and others do not answer after %v", waiting[0], coldLimit)
		}
		rest(2 * time.Millisecond)
	}
}

// unanswered drops those that answer, up to the first that does not: that one is enough to know that it is not over.
func unanswered(waiting []netip.Addr) []netip.Addr {
	for i, a := range waiting {
		if _, _, err := dial(a, servicePort, coldPatience); err != nil {
			return waiting[i:]
		}
	}
	return nil
}

// rest is time in which nothing is asked: what is measured is what the other side does meanwhile, or how soon it is done.
func rest(d time.Duration) { <-time.After(d) }

func idle(pid int) (float64, error) {
	rest(settleTime)
	before, err1 := lab.UsageOf(pid)
	rest(idleTime)
	after, err2 := lab.UsageOf(pid)
	return spent(before, after).Seconds() / idleTime.Seconds(), errors.Join(err1, err2)
}

func spent(before, after lab.Usage) time.Duration {
	return after.CPU + after.Children - before.CPU - before.Children
}

// quiet changes the probe alone.
func (w *world) quiet(ctx context.Context, s *side, phase time.Duration, f *figures) error {
	begin := time.Now()
	before, err := lab.UsageOf(s.pid())
	if err != nil {
		return err
	}
	for len(f.quiet) < s.samples && (len(f.quiet) == 0 || time.Since(begin) < phase) {
		took, err := w.change(ctx)
		if err != nil {
			return err
		}
		f.quiet = append(f.quiet, took)
		rest(max(0, s.rest-took))
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
	type outcome struct {
		made int
		err  error
	}
	others := make(chan outcome, 1)
	begin := time.Now()
	before, err := lab.UsageOf(s.pid())
	if err != nil {
		return err
	}
	go func() {
		made, err := w.churn(ctx, churnEvery)
		others <- outcome{made, err}
	}()
	for ctx.Err() == nil && err == nil {
		var took time.Duration
		if took, err = w.change(context.WithoutCancel(ctx)); err == nil {
			f.busy = append(f.busy, took)
			rest(s.rest / 2)
		}
	}
	stop()
	o := <-others
	lasted := time.Since(begin)
	made := o.made + len(f.busy)
	after, fault := lab.UsageOf(s.pid())
	f.rate = float64(made) / lasted.Seconds()
	f.cpuBusy = (spent(before, after) - time.Duration(f.idle*float64(lasted))) / time.Duration(made)
	return errors.Join(err, o.err, fault)
}

// change turns the probe and waits until a connection ends at its new endpoint. The time is from the
// API server's answer.
func (w *world) change(ctx context.Context) (time.Duration, error) {
	want, err := w.turnProbe(ctx)
	if err != nil {
		return 0, err
	}
	return w.awaitProbe(time.Now(), want, effectLimit)
}

// awaitProbe waits until a connection to the probe ends at its new endpoint.
func (w *world) awaitProbe(begin time.Time, want netip.Addr, limit time.Duration) (time.Duration, error) {
	for {
		got, _, err := dial(w.probe.v4, servicePort, patience)
		took := time.Since(begin)
		if err == nil && got == want {
			return took, nil
		}
		if took > limit {
			return 0, fmt.Errorf("the probe's endpoint is %v and not %v after %v: %w", got, want, limit, err)
		}
		rest(pollPause)
	}
}

// connects measures how long connect takes, directly and through Services. The sides take turns that
// are so short that what else the machine does meets both alike; neither's process runs.
func (w *world) connects(t *testing.T, sides []*side, into []*figures) {
	t.Helper()
	for block := range blocks {
		for i := range sides {
			i = (i + block) % len(sides)
			var err error
			sides[i].node.NS.Do(t, func() { err = w.connect(into[i]) })
			if err != nil {
				t.Fatalf("%s with %d Services: %v", sides[i].name, w.size(), err)
			}
		}
	}
}

// connect makes a block of connections.
func (w *world) connect(f *figures) error {
	for range blockSize {
		number := rand.IntN(w.size())
		for _, one := range []struct {
			to   netip.Addr
			port uint16
			into *[]time.Duration
		}{
			{endpoint(number * 4), endpointPort, &f.direct},
			{clusterIP(number), servicePort, &f.cluster},
			{w.probe.v6, servicePort, &f.cluster6},
		} {
			_, took, err := dial(one.to, one.port, patience)
			if errors.Is(err, unix.EINTR) {
				continue // the runtime's own signal, which a connect with a time limit does not survive
			}
			if err != nil {
				return fmt.Errorf("connect to %v: %w", one.to, err)
			}
			*one.into = append(*one.into, took)
		}
	}
	return nil
}

// dial connects, for as long as the patience at most, and returns the address that it has reached and how long connect took. It runs on
// the calling thread, which is in the node's namespace, and leaves no connection behind.
func dial(to netip.Addr, port uint16, patience time.Duration) (netip.Addr, time.Duration, error) {
	var address unix.Sockaddr = &unix.SockaddrInet6{Port: int(port), Addr: to.As16()}
	family := unix.AF_INET6
	if to.Is4() {
		address, family = &unix.SockaddrInet4{Port: int(port), Addr: to.As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
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
