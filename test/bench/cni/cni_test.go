//go:build linux && bench

// Package cni_test measures CNI ADD and DEL against the reference plugins: alone, and 50 at once. The
// contenders take turns in one run, each on a node of its own, through the library that runtimes use.
package cni_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/nstest"
)

var (
	rounds = flag.Int("rounds", 4, "turns of each contender")
	alone  = flag.Int("alone", 25, "ADDs one at a time in a turn")
	dual   = flag.Bool("dual", false, "measure the reference with both families, too, in one turn of a few ADDs")
)

const burst = 50

// samples are the durations of one thing that was done often.
type samples []time.Duration

func (s samples) at(quantile float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(quantile*float64(len(sorted))), len(sorted)-1)]
}

// row is what was measured of one contender.
type row struct {
	name                                   string
	addAlone, delAlone, addBurst, delBurst samples
}

func TestCNI(t *testing.T) {
	plugins := build(t)
	pods := make([]*nstest.Namespace, burst)
	for i := range pods {
		pods[i] = nstest.New(t)
	}
	contenders := []*contender{
		weftnet(t, plugins, false, pods), ptp(t, plugins, false, false, pods),
		weftnet(t, plugins, true, pods), ptp(t, plugins, true, false, pods),
	}
	rows := make([]row, len(contenders))
	bare := row{name: "a bare run of the plugin (VERSION)"}
	for range *rounds {
		bare.run(t, *alone, nil, func(int) error { return runBare(plugins) }, nil)
		for i, c := range contenders {
			rows[i].name = c.name
			rows[i].run(t, *alone, c.node, c.add, c.del)
		}
	}
	all := append(rows, bare)
	if *dual {
		c := ptp(t, plugins, false, true, pods)
		r := row{name: c.name}
		r.run(t, 5, c.node, c.add, c.del)
		all = append(all, r)
	}
	show(t, all)
	judge(t, rows)
}

func runBare(plugins string) error {
	cmd := exec.Command(filepath.Join(plugins, "weftnet"))
	cmd.Env, cmd.Stdin = []string{"CNI_COMMAND=VERSION"}, strings.NewReader(`{"cniVersion":"1.1.0"}`)
	return cmd.Run()
}

// run takes one turn.
func (r *row) run(t *testing.T, alone int, node *nstest.Namespace, add, del func(int) error) {
	t.Helper()
	for range alone {
		r.addAlone = append(r.addAlone, together(t, node, 1, add)...)
		if del != nil {
			r.delAlone = append(r.delAlone, together(t, node, 1, del)...)
		}
	}
	r.addBurst = append(r.addBurst, together(t, node, burst, add)...)
	if del != nil {
		r.delBurst = append(r.delBurst, together(t, node, burst, del)...)
	}
}

// together calls f n times at once from threads in the node's namespace, and gives the time from the
// common start to each one's end.
func together(t *testing.T, node *nstest.Namespace, n int, f func(int) error) samples {
	t.Helper()
	out := make(samples, n)
	errs := make([]error, n)
	start := make(chan struct{})
	var begin time.Time
	var ready, done sync.WaitGroup
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			work := func() {
				ready.Done()
				<-start
				errs[i] = f(i)
				out[i] = time.Since(begin)
			}
			if node == nil {
				work()
			} else {
				node.Do(t, work)
			}
		})
	}
	ready.Wait()
	begin = time.Now()
	close(start)
	done.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func show(t *testing.T, rows []row) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "\nCNI, in ms; Weftnet dual stack, the reference IPv4 unless it says otherwise; alone: %d runs, at once: %d times %d; the times at once are from the common start\n", *rounds**alone, *rounds, burst)
	fmt.Fprintf(&b, "%-36s %16s %16s %16s %16s\n%-36s", "", "ADD alone", "DEL alone", fmt.Sprintf("ADD %d at once", burst), fmt.Sprintf("DEL %d at once", burst), "")
	for range 4 {
		fmt.Fprintf(&b, " %8s%8s", "p50", "p99")
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "\n%-36s", r.name)
		for _, s := range []samples{r.addAlone, r.delAlone, r.addBurst, r.delBurst} {
			if len(s) == 0 {
				fmt.Fprintf(&b, " %8s%8s", "-", "-")
				continue
			}
			fmt.Fprintf(&b, " %8.1f%8.1f", ms(s.at(.5)), ms(s.at(.99)))
		}
	}
	fmt.Fprintln(os.Stdout, b.String())
}

// judge compares with what the project has promised.
func judge(t *testing.T, rows []row) {
	t.Helper()
	ours, theirs, oursPorts, theirsPorts := rows[0], rows[1], rows[2], rows[3]
	check := func(what string, got, limit float64) {
		verdict := "ok"
		if got > limit {
			verdict = "MISSED"
			t.Errorf("%s: %.2f, promised at most %.2f", what, got, limit)
		}
		fmt.Printf("%-64s %8.2f  (at most %.2f) %s\n", what, got, limit, verdict)
	}
	ratio := func(a, b samples) float64 { return ms(a.at(.5)) / ms(b.at(.5)) }
	check("ADD alone p50, of ptp + host-local", ratio(ours.addAlone, theirs.addAlone), 0.6)
	check("ADD alone with a hostPort p50, of ptp + host-local + portmap", ratio(oursPorts.addAlone, theirsPorts.addAlone), 0.2)
	check("ADD 50 at once p99, ms", ms(ours.addBurst.at(.99)), 200)
	for _, c := range []struct {
		what         string
		ours, theirs samples
	}{
		{"DEL alone p50, of ptp + host-local", ours.delAlone, theirs.delAlone},
		{"ADD 50 at once p50, of ptp + host-local", ours.addBurst, theirs.addBurst},
		{"DEL 50 at once p50, of ptp + host-local", ours.delBurst, theirs.delBurst},
		{"ADD 50 at once with a hostPort p50, of + portmap", oursPorts.addBurst, theirsPorts.addBurst},
	} {
		check(c.what, ratio(c.ours, c.theirs), 1)
	}
}
