//go:build linux && bench

package samenode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"

	"github.com/weftnet/weftnet/test/bench/ping"
	"github.com/weftnet/weftnet/test/nstest"
)

// seconds of each stream.
const seconds = 1

type report struct {
	Error string `json:"error"`
	End   struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Packets int     `json:"packets"`
			Lost    int     `json:"lost_packets"`
			Seconds float64 `json:"seconds"`
		} `json:"sum"`
	} `json:"end"`
}

func oneStream(ctx context.Context, s *side, to netip.Addr) (float64, error) {
	r, err := iperf(ctx, s, to, "-t", strconv.Itoa(seconds))
	return r.End.Received.BitsPerSecond / 1e9, err
}

func fourStreams(ctx context.Context, s *side, to netip.Addr) (float64, error) {
	r, err := iperf(ctx, s, to, "-t", strconv.Itoa(seconds), "-P", "4")
	return r.End.Received.BitsPerSecond / 1e9, err
}

// smallPackets sends 64-byte datagrams as fast as it can and counts those that arrive.
func smallPackets(ctx context.Context, s *side, to netip.Addr) (float64, error) {
	r, err := iperf(ctx, s, to, "-t", strconv.Itoa(seconds), "-u", "-b", "0", "-l", "64")
	return float64(r.End.Sum.Packets-r.End.Sum.Lost) / seconds, err
}

func roundTrip(_ context.Context, s *side, to netip.Addr) (float64, error) {
	return ping.RoundTrip(s.from, to)
}

// exchange is the round trip of a connection's datagrams: what ICMP's echoes do not show is how connections are treated.
func exchange(_ context.Context, s *side, to netip.Addr) (float64, error) {
	return ping.UDP(s.from, s.to, to)
}

func iperf(ctx context.Context, s *side, to netip.Addr, args ...string) (report, error) {
	out, err := inPod(ctx, s.from, "iperf3", append([]string{"-J", "-c", to.String()}, args...)...)
	var r report
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		return r, fmt.Errorf("read the report of iperf3: %w (it ended with %w): %s", jerr, err, out)
	}
	if r.Error != "" {
		return r, fmt.Errorf("iperf3: %s", r.Error)
	}
	return r, err
}

// inPod runs a program in a Pod's network namespace.
func inPod(ctx context.Context, pod *nstest.Namespace, name string, args ...string) ([]byte, error) {
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	return exec.CommandContext(ctx, "nsenter", append([]string{path, name}, args...)...).Output()
}
