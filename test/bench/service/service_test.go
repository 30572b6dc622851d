//go:build linux && bench

// Package service measures the service proxy beside kube-proxy in nftables mode: the real agent and
// the real kube-proxy, in turn, each on a node of its own, beside the same API server with the same
// Services. Effects are seen from outside either: by connecting.
package service

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/bench/table"
)

// settings say how much to measure; a short run is possible.
type settings struct {
	// sizes are numbers of Services, growing (SERVICE_BENCH_SIZES).
	sizes []int
	// rivalMost is the largest number that kube-proxy is measured with (SERVICE_BENCH_RIVAL_MOST): at
	// 30,000 it took 8 minutes and locked a processor.
	rivalMost int
	// rounds of both in turn at each size (SERVICE_BENCH_ROUNDS).
	rounds int
	// only names the one side to run, to look into it (SERVICE_BENCH_ONLY): Weftnet or kube-proxy.
	only string
	// phase bounds each of the two runs of changes (SERVICE_BENCH_PHASE).
	phase time.Duration
}

func read(t *testing.T) settings {
	t.Helper()
	s := settings{sizes: []int{1000, 10000, 40000}, rivalMost: 10000, rounds: 1, phase: 15 * time.Second}
	s.only = os.Getenv("SERVICE_BENCH_ONLY")
	number := func(name string, into *int) {
		if text := os.Getenv(name); text != "" {
			var err error
			if *into, err = strconv.Atoi(text); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	number("SERVICE_BENCH_RIVAL_MOST", &s.rivalMost)
	number("SERVICE_BENCH_ROUNDS", &s.rounds)
	if text := os.Getenv("SERVICE_BENCH_PHASE"); text != "" {
		var err error
		if s.phase, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SERVICE_BENCH_PHASE: %v", err)
		}
	}
	if text := os.Getenv("SERVICE_BENCH_SIZES"); text != "" {
		s.sizes = nil
		for _, one := range strings.Split(text, ",") {
			n, err := strconv.Atoi(one)
			if err != nil {
				t.Fatalf("SERVICE_BENCH_SIZES: %v", err)
			}
			s.sizes = append(s.sizes, n)
		}
	}
	return s
}

// The targets are those of the issue that asked for the service proxy.
const (
	targetCold    = 1.0 / 30 // of kube-proxy's time, at 10,000
	targetCPU     = 1.0 / 50
	targetMemory  = 0.6
	targetConnect = 1.0
)

// The sides, as SERVICE_BENCH_ONLY names them.
const (
	weftnetName = "Weftnet"
	rivalName   = "kube-proxy"
)

// TestServices measures each size in a test of its own, so that -run can choose:
// -run 'TestServices/^40000$'.
func TestServices(t *testing.T) {
	s := read(t)
	w := newWorld(t, lab.New(t))
	sizes := map[int]figures{}
	for _, size := range s.sizes {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			w.grow(t, size)
			var ours, theirs []figures
			for round := range s.rounds {
				o, r := w.round(t, s, round)
				ours, theirs = append(ours, o...), append(theirs, r...)
			}
			all := rows(size, ours, theirs)
			if s.only == "" {
				all = append(all, readerRow(w.reading(t, s.phase), theirs))
			}
			table.Print(os.Stdout, fmt.Sprintf("%d Services, %d rounds in turn, medians", size, s.rounds), weftnetName, rivalName, all)
			sizes[size] = together(ours)
		})
	}
	flatness(s.sizes, sizes)
}

// round gives each side a turn. Who goes first changes from round to round.
func (w *world) round(t *testing.T, s settings, round int) (ours, theirs []figures) {
	t.Helper()
	var sides []*side
	if s.only != rivalName {
		sides = append(sides, w.weftnet(t))
	}
	if s.only != weftnetName && w.size() <= s.rivalMost {
		sides = append(sides, w.kubeProxy(t))
	}
	if round%2 == 1 {
		slices.Reverse(sides)
	}
	found := make([]*figures, len(sides))
	for i, one := range sides {
		f := w.measure(t, one, s.phase)
		found[i] = &f
	}
	w.connects(t, sides, found)
	for i, one := range sides {
		if one.name == weftnetName {
			ours = append(ours, *found[i])
		} else {
			theirs = append(theirs, *found[i])
		}
	}
	return ours, theirs
}

// rows compare what was measured. Where kube-proxy was not run, its figures and the ratio are 0.
func rows(size int, ours, theirs []figures) []table.Row {
	row := func(name, unit string, target float64, of func(figures) float64) table.Row {
		r := table.Row{Name: name, Unit: unit, LessIsBetter: true}
		if len(ours) > 0 && len(theirs) > 0 {
			r.Target = target
		}
		for _, f := range ours {
			r.Ours = append(r.Ours, of(f))
		}
		for _, f := range theirs {
			r.Theirs = append(r.Theirs, of(f))
		}
		return r
	}
	cold := 0.0
	if size >= 10000 { // what was asked is for a large cluster
		cold = targetCold
	}
	return []table.Row{
		row("cold start to the last Service", "s", cold, func(f figures) float64 { return f.cold.Seconds() }),
		row("change to effect, quiet, p50", "ms", 0, quantile(func(f figures) []time.Duration { return f.quiet }, 0.5, time.Millisecond)),
		row("change to effect, quiet, p99", "ms", 0, quantile(func(f figures) []time.Duration { return f.quiet }, 0.99, time.Millisecond)),
		row("change to effect, 100/s, p50", "ms", 0, quantile(func(f figures) []time.Duration { return f.busy }, 0.5, time.Millisecond)),
		row("change to effect, 100/s, p99", "ms", 0, quantile(func(f figures) []time.Duration { return f.busy }, 0.99, time.Millisecond)),
		row("changes really made a second", "/s", 0, func(f figures) float64 { return f.rate }),
		row("CPU of a change, quiet", "ms", targetCPU, func(f figures) float64 { return f.cpuQuiet.Seconds() * 1e3 }),
		row("CPU of a change, 100/s", "ms", 0, func(f figures) float64 { return f.cpuBusy.Seconds() * 1e3 }),
		row("CPU while idle", "ms/s", 0, func(f figures) float64 { return f.idle * 1e3 }),
		row("resident memory", "MiB", targetMemory, func(f figures) float64 { return f.rss }),
		row("the most of it since the start", "MiB", 0, func(f figures) float64 { return f.peak }),
		row("the most of it after a restart", "MiB", 0, func(f figures) float64 { return f.peakRestart }),
		row("restart to the next change in force", "s", 0, func(f figures) float64 { return f.restart.Seconds() }),
		row("connect to the endpoint, p50", "us", 0, quantile(func(f figures) []time.Duration { return f.direct }, 0.5, time.Microsecond)),
		row("connect to the endpoint, p99", "us", 0, quantile(func(f figures) []time.Duration { return f.direct }, 0.99, time.Microsecond)),
		row("connect to a ClusterIP, p50", "us", targetConnect, quantile(func(f figures) []time.Duration { return f.cluster }, 0.5, time.Microsecond)),
		row("connect to a ClusterIP, p99", "us", 0, quantile(func(f figures) []time.Duration { return f.cluster }, 0.99, time.Microsecond)),
		row("the same over IPv6, p50", "us", targetConnect, quantile(func(f figures) []time.Duration { return f.cluster6 }, 0.5, time.Microsecond)),
		row("what the ClusterIP adds, p50", "us", targetConnect, added),
	}
}

// readerRow has in the place of ours a client that reads each change and does nothing with it: no proxy that does so can take less
// of kube-proxy's CPU time, which gathers what changes within a second.
func readerRow(reading time.Duration, theirs []figures) table.Row {
	r := table.Row{Name: "CPU of a change, 100/s, only read", Unit: "ms", LessIsBetter: true, Ours: []float64{reading.Seconds() * 1e3}}
	for _, f := range theirs {
		r.Theirs = append(r.Theirs, f.cpuBusy.Seconds()*1e3)
	}
	return r
}

// added is what a connection through a ClusterIP takes beyond one to the endpoint, at the median. The
// nodes differ in more than the proxy: ours has a mesh and a policy engine, which look at packets, too.
func added(f figures) float64 {
	p50 := func(d []time.Duration) float64 {
		return quantile(func(figures) []time.Duration { return d }, 0.5, time.Microsecond)(f)
	}
	return p50(f.cluster) - p50(f.direct)
}

func quantile(of func(figures) []time.Duration, q float64, unit time.Duration) func(figures) float64 {
	return func(f figures) float64 {
		var values []float64
		for _, d := range of(f) {
			values = append(values, float64(d)/float64(unit))
		}
		return table.Quantile(values, q)
	}
}

// together has the samples of several rounds.
func together(all []figures) figures {
	var out figures
	for _, f := range all {
		out.busy = append(out.busy, f.busy...)
		out.quiet = append(out.quiet, f.quiet...)
		out.cluster = append(out.cluster, f.cluster...)
		out.direct = append(out.direct, f.direct...)
	}
	return out
}

// flatness compares the largest size with the smallest.
func flatness(sizes []int, by map[int]figures) {
	if len(sizes) < 2 {
		return
	}
	small, large := sizes[0], sizes[len(sizes)-1]
	if len(by[small].quiet) == 0 || len(by[large].quiet) == 0 {
		return // only a part was run
	}
	row := func(name, unit string, target float64, of func(figures) float64) table.Row {
		return table.Row{Name: name, Unit: unit, LessIsBetter: true, Target: target, Ours: []float64{of(by[large])}, Theirs: []float64{of(by[small])}}
	}
	table.Print(os.Stdout, "Weftnet, flat in the number of Services", strconv.Itoa(large), strconv.Itoa(small), []table.Row{
		row("change to effect, quiet, p99", "ms", 2, quantile(func(f figures) []time.Duration { return f.quiet }, 0.99, time.Millisecond)),
		row("change to effect, 100/s, p99", "ms", 2, quantile(func(f figures) []time.Duration { return f.busy }, 0.99, time.Millisecond)),
		row("connect to a ClusterIP, p50", "us", 0, quantile(func(f figures) []time.Duration { return f.cluster }, 0.5, time.Microsecond)),
		row("what the ClusterIP adds, p50", "us", 0, added),
	})
}
