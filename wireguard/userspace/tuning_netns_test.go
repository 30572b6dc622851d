//go:build netns

package userspace_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/wgtest"
)

// TestTuning is the measurement behind Tune. It takes minutes and iperf3, and is asked for with
// WEFTNET_TUNING=<rounds>. The candidates run in turn, so that what else the machine does meanwhile
// touches them alike; the table has medians.
func TestTuning(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("WEFTNET_TUNING"))
	if err != nil {
		t.Skip("a measurement, not a test: set WEFTNET_TUNING to a number of rounds")
	}
	candidates := strings.Split(os.Getenv("WEFTNET_TUNING_CANDIDATES"), ";")
	if candidates[0] == "" {
		candidates = []string{"", "GOMAXPROCS=1", "GOMAXPROCS=2", "GOMAXPROCS=1 GOMEMLIMIT=off", "GOMAXPROCS=2 GOMEMLIMIT=off"}
	}
	results := map[string][]result{}
	for range rounds {
		for _, c := range candidates {
			results[c] = append(results[c], measure(t, strings.Fields(c)))
		}
	}
	t.Logf("%-36s %8s %8s %8s %8s %8s %8s", "", "1 stream", "4", "CPU s/Gbit", "4", "RSS MiB", "peak MiB")
	for _, c := range candidates {
		r := results[c]
		column := func(f func(result) float64) float64 { return median(r, f) }
		t.Logf("%-36s %8.2f %8.2f %8.2f %8.2f %8.0f %8.0f", c,
			column(func(r result) float64 { return r.gbits[0] }), column(func(r result) float64 { return r.gbits[1] }),
			column(func(r result) float64 { return r.cpu[0] }), column(func(r result) float64 { return r.cpu[1] }),
			column(func(r result) float64 { return r.rss }), column(func(r result) float64 { return r.peak }))
	}
}

type result struct {
	gbits [2]float64 // with 1 and 4 streams
	cpu   [2]float64 // seconds of both processes per Gbit
	// of the receiving process, after and at most, in MiB
	rss, peak float64
}

func median(all []result, f func(result) float64) float64 {
	values := make([]float64, len(all))
	for i, r := range all {
		values[i] = f(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func measure(t *testing.T, env []string) (r result) {
	t.Run("", func(t *testing.T) {
		a, b := pair(t, false, env...)
		b.echo(t)
		a.reach(t, b, 20*time.Second)
		b.start(t, "iperf3", "-s", "-B", b.mesh[0].String())
		for i, streams := range []int{1, 4} {
			wgtest.Eventually(t, 60*time.Second, func() error {
				before := cpuSeconds(t, a.process.PID()) + cpuSeconds(t, b.process.PID())
				gbit, rate, err := a.iperf(t, b, streams)
				r.gbits[i], r.cpu[i] = rate, (cpuSeconds(t, a.process.PID())+cpuSeconds(t, b.process.PID())-before)/gbit
				return err
			})
		}
		r.rss, r.peak = memory(t, b.process.PID(), "VmRSS:"), memory(t, b.process.PID(), "VmHWM:")
	})
	return r
}

// start runs a program in the node's namespace until the test ends.
func (n *node) start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var err error
	n.ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func (n *node) iperf(t *testing.T, other *node, streams int) (gbit, perSecond float64, err error) {
	var out []byte
	n.ns.Do(t, func() {
		out, err = exec.Command("iperf3", "-c", other.mesh[0].String(), "-t", "4", "-P", strconv.Itoa(streams), "-J").Output()
	})
	if err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w\n%s", err, out)
	}
	var report struct {
		End struct {
			Received struct {
				Bytes         float64 `json:"bytes"`
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return 0, 0, err
	}
	if report.End.Received.Bytes == 0 {
		return 0, 0, fmt.Errorf("iperf3 counted nothing:\n%s", out)
	}
	return report.End.Received.Bytes * 8 / 1e9, report.End.Received.BitsPerSecond / 1e9, nil
}

func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

func memory(t *testing.T, pid int, key string) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
