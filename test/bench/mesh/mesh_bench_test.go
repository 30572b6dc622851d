//go:build bench

// Package mesh measures the network between nodes: Pod to Pod through Weftnet beside a bare
// wireguard-go pair between the same two nodes, in turn, on the testbed.
package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/test/bench/table"
	"github.com/weftnet/weftnet/test/harness"
)

const (
	// rounds are many and short: on a machine that others share, one of four seconds differs from the next by a fifth.
	rounds     = 24
	streamTime = 2 * time.Second
	streamPort = 5401
	nodes      = 3
)

// target is the least share of the bare pair's figures, from the issue that asked for this
// benchmark: what Pods lose to veth, routing and rules.
const target = 0.95

// side is one of the two ways between the nodes.
type side struct {
	run func(ctx context.Context, command ...string) (string, error)
	to  netip.Addr
}

func TestAcrossNodes(t *testing.T) {
	ctx := t.Context()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := harness.Ensure(ctx, root, harness.Options{Sets: []string{"bench"}, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	probes, err := cluster.StartProbes(ctx, nodes)
	if err != nil {
		t.Fatal(err)
	}
	sides := map[string]side{"weftnet": podSide(t, cluster, probes), "bare": bareSide(t, cluster, probes)}
	rows := []*table.Row{
		{Name: "TCP, 1 stream", Unit: "Gbit/s", Target: target},
		{Name: "TCP, 4 streams", Unit: "Gbit/s", Target: target},
		{Name: "64-byte UDP received", Unit: "packets/s", Target: target},
		{Name: "round trip", Unit: "ms", LessIsBetter: true, Target: 1 / target},
	}
	measures := []func(context.Context, side) (float64, error){
		func(ctx context.Context, s side) (float64, error) { return tcp(ctx, s, 1) },
		func(ctx context.Context, s side) (float64, error) { return tcp(ctx, s, 4) },
		smallPackets, roundTrip,
	}
	for round := range rounds {
		for i, measure := range measures {
			ours := func() { rows[i].Ours = append(rows[i].Ours, must(t, sides["weftnet"], measure)) }
			theirs := func() { rows[i].Theirs = append(rows[i].Theirs, must(t, sides["bare"], measure)) }
			// Whoever comes second finds the processor warmer, or what the first has left to do: each is first in turn.
			if round%2 == 0 {
				ours()
				theirs()
			} else {
				theirs()
				ours()
			}
		}
	}
	printed := make([]table.Row, len(rows))
	for i, row := range rows {
		printed[i] = *row
	}
	table.Print(os.Stdout, fmt.Sprintf("Across nodes, %d rounds in turn, medians", rounds), "Pod to Pod", "bare wireguard-go", printed)
}

func itoa(n int) string { return strconv.Itoa(n) }

func must(t *testing.T, s side, measure func(context.Context, side) (float64, error)) float64 {
	t.Helper()
	value, err := measure(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func podSide(t *testing.T, cluster *harness.Cluster, probes *harness.Probes) side {
	t.Helper()
	from, to := &probes.Pods[0], &probes.Pods[1]
	placeOf(t, to).start(t, "iperf3", "-s", "-p", itoa(streamPort))
	s := side{run: runIn(cluster, placeOf(t, from)), to: firstIPv4(to)}
	s.waitForStreams(t, "Pods answer")
	return s
}

func runIn(cluster *harness.Cluster, p place) func(context.Context, ...string) (string, error) {
	return func(ctx context.Context, program ...string) (string, error) {
		whole := p.command(program...)
		return harness.Command(ctx, cluster.Root, nil, whole[0], whole[1:]...)
	}
}

// waitForStreams waits until the receiving side listens.
func (s side) waitForStreams(t *testing.T, what string) {
	t.Helper()
	err := harness.Eventually(t.Context(), 15*time.Second, what, func(ctx context.Context) error {
		_, err := s.run(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", s.to, streamPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func firstIPv4(pod *corev1.Pod) netip.Addr {
	for _, addr := range harness.Addresses(pod) {
		if addr.Is4() {
			return addr
		}
	}
	return netip.Addr{}
}

func tcp(ctx context.Context, s side, parallel int) (float64, error) {
	report, err := iperf(ctx, s, "-P", itoa(parallel))
	return report.End.Received.BitsPerSecond / 1e9, err
}

// smallPackets sends 64-byte datagrams as fast as it can and counts those that arrive.
func smallPackets(ctx context.Context, s side) (float64, error) {
	report, err := iperf(ctx, s, "-u", "-b", "0", "-l", "64")
	sum := report.End.Sum
	return float64(sum.Packets-sum.Lost) / streamTime.Seconds(), err
}

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

func iperf(ctx context.Context, s side, args ...string) (report, error) {
	command := append([]string{"iperf3", "-J", "-c", s.to.String(), "-p", itoa(streamPort), "-t", itoa(int(streamTime.Seconds()))}, args...)
	out, err := s.run(ctx, command...)
	if err != nil {
		return report{}, err
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return r, fmt.Errorf("read the report of iperf3: %w", err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("iperf3: %s", r.Error)
	}
	return r, nil
}

var averageRTT = regexp.MustCompile(`= [0-9.]+/([0-9.]+)/`)

// roundTrip is the average of 300 echoes, 5 ms apart, in milliseconds.
func roundTrip(ctx context.Context, s side) (float64, error) {
	out, err := s.run(ctx, "ping", "-q", "-c", "300", "-i", "0.005", s.to.String())
	if err != nil {
		return 0, err
	}
	match := averageRTT.FindStringSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("read the output of ping: %q", out)
	}
	return strconv.ParseFloat(match[1], 64)
}
