//go:build linux

// Package requester makes HTTP requests at a steady rate, each over a connection of its own, from a
// process of its own: in the network namespace and the cgroup that a test is about. It costs so little
// that on a small machine the servers, not the requests, get the processors; and of what fails it
// keeps what the kernel knew of the connection, which tells packets that were lost from a server that
// had no time to answer.
package requester

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// env makes a process of the test binary such a process.
const env = "WEFTNET_TEST_REQUESTS"

// Order says what to do until the standard input ends.
type Order struct {
	// To are asked in turn.
	To        []netip.AddrPort
	PerSecond float64
	// Path of the page, such as "/hostname".
	Path string
	// Patience with one request, from the connection's first packet to the end of the answer.
	Patience time.Duration
}

// Report is what came of it.
type Report struct {
	Made int
	// Retransmits are the segments that were sent again, of requests that succeeded too.
	Retransmits uint64
	// Typical and Rare are the median and the 99th percentile of what a request took, Longest the most.
	Typical, Rare, Longest time.Duration
	// Late is the most by which a request began after its time: the requester's own want of a processor.
	Late time.Duration
}

// message is a line of the output: a failure when it happens, the report at the end.
type message struct {
	Failure *Failure `json:",omitempty"`
	Report  *Report  `json:",omitempty"`
}

// Main does the other process's work, and says whether this is one. TestMain calls it first.
func Main() bool {
	if os.Getenv(env) == "" {
		return false
	}
	if err := work(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "requester:", err)
		os.Exit(1)
	}
	return true
}

// work reads the order from in, and goes on until in ends.
func work(in io.Reader, out io.Writer) error {
	orders := json.NewDecoder(in)
	var o Order
	if err := orders.Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, orders.Buffered())
		_, _ = io.Copy(io.Discard, in)
	}()
	r := run{order: o, out: json.NewEncoder(out)}
	r.all(ctx)
	return r.end()
}

// run is the work under way.
type run struct {
	order Order

	mu    sync.Mutex
	out   *json.Encoder
	err   error
	took  []time.Duration
	again uint64
	late  time.Duration
}

// all begins requests when they are due until ctx ends, and waits for the last one. A machine that is
// busy makes some late; those are caught up with.
func (r *run) all(ctx context.Context) {
	var flying sync.WaitGroup
	defer flying.Wait()
	apart := time.Duration(float64(time.Second) / r.order.PerSecond)
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Since(begin)
		for ; time.Duration(sent)*apart <= now; sent++ {
			r.late = max(r.late, now-time.Duration(sent)*apart)
			to := r.order.To[sent%len(r.order.To)]
			flying.Go(func() { r.one(to) })
		}
		timer.Reset(time.Duration(sent)*apart - now)
	}
}

func (r *run) one(to netip.AddrPort) {
	began := time.Now()
	again, failure := request(to, r.order.Path, r.order.Patience)
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took, r.again = append(r.took, took), r.again+uint64(again)
	if failure == nil {
		return
	}
	failure.At, failure.After = began, took
	if err := r.out.Encode(message{Failure: failure}); err != nil {
		r.err = fmt.Errorf("tell a failure: %w", err)
	}
}

func (r *run) end() error {
	report := Report{Made: len(r.took), Retransmits: r.again, Late: r.late}
	if n := len(r.took); n > 0 {
		slices.Sort(r.took)
		report.Typical, report.Rare, report.Longest = r.took[n/2], r.took[n*99/100], r.took[n-1]
	}
	if err := r.out.Encode(message{Report: &report}); err != nil {
		return fmt.Errorf("tell the end: %w", err)
	}
	return r.err
}

// dialer does not look for other addresses and sets no option beyond what a connection needs.
var dialer = net.Dialer{KeepAlive: -1}
