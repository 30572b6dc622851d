package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Stream is a TCP stream.
type Stream struct {
	From *corev1.Pod
	To   netip.Addr
	Port uint16
	For  time.Duration
	// BitsPerSecond; 0 means full speed.
	BitsPerSecond int
	// Parallel connections; 0 means one.
	Parallel int
}

// StreamResult is what the receiving side counted.
type StreamResult struct {
	BitsPerSecond float64
	Retransmits   int
	// Seconds in which the stream was looked at, and Idle those of them in which nothing was sent.
	Seconds, Idle int
}

// ServeStreams starts the receiving side of streams in a Pod, in the background.
func (c *Cluster) ServeStreams(ctx context.Context, pod *corev1.Pod, port uint16) error {
	_, err := c.Exec(ctx, pod, "iperf3", "-s", "-D", "-p", strconv.Itoa(int(port)))
	if err != nil {
		return fmt.Errorf("start the receiving side: %w", err)
	}
	return Eventually(ctx, 10*time.Second, "receiving side listens", func(ctx context.Context) error {
		_, err := c.Exec(ctx, pod, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port))
		return err
	})
}

// RunStream sends and returns when all has been sent and counted.
func (c *Cluster) RunStream(ctx context.Context, s Stream) (StreamResult, error) {
	args := []string{"iperf3", "-c", s.To.String(), "-p", strconv.Itoa(int(s.Port)), "-J", "-t", strconv.Itoa(int(s.For.Seconds()))}
	if s.BitsPerSecond > 0 {
		args = append(args, "-b", strconv.Itoa(s.BitsPerSecond))
	}
	if s.Parallel > 1 {
		args = append(args, "-P", strconv.Itoa(s.Parallel))
	}
	out, err := c.Exec(ctx, s.From, args...)
	if err != nil {
		return StreamResult{}, fmt.Errorf("stream to %s: %w: %s", s.To, err, tail(out, 500))
	}
	return parseStream([]byte(out))
}

type flowSum struct {
	BitsPerSecond float64 `json:"bits_per_second"`
	Retransmits   int     `json:"retransmits"`
}

// parseStream reads the report that iperf3 prints with -J.
func parseStream(report []byte) (StreamResult, error) {
	var r struct {
		Error     string `json:"error"`
		Intervals []struct {
			Sum flowSum `json:"sum"`
		} `json:"intervals"`
		End struct {
			Sent     flowSum `json:"sum_sent"`
			Received flowSum `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return StreamResult{}, fmt.Errorf("read the stream's report: %w", err)
	}
	if r.Error != "" {
		return StreamResult{}, fmt.Errorf("stream: %s", r.Error)
	}
	result := StreamResult{BitsPerSecond: r.End.Received.BitsPerSecond, Retransmits: r.End.Sent.Retransmits, Seconds: len(r.Intervals)}
	for _, i := range r.Intervals {
		if i.Sum.BitsPerSecond == 0 {
			result.Idle++
		}
	}
	return result, nil
}

// ParseOverruns reads RcvbufErrors of UDP: in snmp a line of names and a line of values, in snmp6 a
// name and a value in each line.
func ParseOverruns(counters string) (v4, v6 int, err error) {
	var names []string
	found := 0
	for _, line := range strings.Split(counters, "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "Udp:" && names == nil:
			names = fields
		case fields[0] == "Udp:":
			if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(fields) {
				v4, err = strconv.Atoi(fields[i])
				found++
			}
		case fields[0] == "Udp6RcvbufErrors" && len(fields) == 2:
			v6, err = strconv.Atoi(fields[1])
			found++
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read the counters of UDP: %w", err)
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("read the counters of UDP: RcvbufErrors of %d families found, want 2", found)
	}
	return v4, v6, nil
}
