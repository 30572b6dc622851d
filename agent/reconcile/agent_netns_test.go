//go:build netns

package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/wireguard/request"
)

// agentMain is an agent whose cluster comes over stdin, one snapshot a line, and that says on
// stdout when its readiness or its count of repairs changes.
func agentMain() error {
	if err := ownRun(); err != nil {
		return err
	}
	runtime.LockOSThread()
	kernel, err := OpenKernel("/proc/sys/net")
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(os.Getenv("NODE_NUMBER"))
	if err != nil {
		return err
	}
	pods, err := readPods()
	if err != nil {
		return err
	}
	source, say, counts := newClusterSource(), &sayer{out: json.NewEncoder(os.Stdout)}, &counts{}
	if path := os.Getenv("NODE_CACHE"); path != "" {
		snap, err := cache.Cache{Path: path, Self: fmt.Sprintf("node%d", number)}.Load()
		if err != nil {
			return err
		}
		source.set(snap)
	}
	loop := New(Config{
		Source: source, Pods: pods, Keys: []mesh.Key{{Epoch: 1, Private: privateKey(number)}}, Kernel: kernel.Kernel(), Watch: kernel.Watch,
		Request: func(device string, mtu int, want bool) error {
			if !want {
				return request.Remove(request.Dir, device)
			}
			return request.Write(request.Dir, request.Request{Name: device, MTU: mtu})
		},
		Probe: testProbe, Backend: os.Getenv("NODE_BACKEND"), Recorder: counts,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the end of stdin is the end of the agent
		defer cancel()
		readSnapshots(os.Stdin, source)
	}()
	go say.follow(ctx, loop, counts)
	return loop.Run(ctx)
}

func readSnapshots(from io.Reader, source *clusterSource) {
	lines := json.NewDecoder(from)
	for {
		var line struct {
			Partial  bool
			Snapshot snapshot.Snapshot
		}
		if err := lines.Decode(&line); err != nil {
			return
		}
		line.Snapshot.Partial = line.Partial
		source.set(line.Snapshot)
	}
}

func testProbe(addresses []netip.Addr) {
	for _, a := range addresses {
		if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9))); err == nil {
			_, _ = c.Write(nil)
			_ = c.Close()
		}
	}
}

// said is what the agent tells the test.
type said struct {
	Ready     bool
	Fault     string
	MTU       int
	Connected int
	Drift     map[string]int
}

type sayer struct {
	out  *json.Encoder
	last string
}

func (s *sayer) follow(ctx context.Context, loop *Loop, counts *counts) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-loop.Reported():
		}
		now := said{MTU: loop.Network().MTU, Drift: map[string]int{}}
		if err := loop.Ready(); err != nil {
			now.Fault = err.Error()
		} else {
			now.Ready = true
		}
		if r, ok := loop.Report(); ok {
			for _, p := range r.Plan.Peers {
				if mesh.Connected(r.Facts, p.Key, r.At) {
					now.Connected++
				}
			}
		}
		for _, stage := range Stages() {
			now.Drift[stage] = counts.drifts(stage)
		}
		text := fmt.Sprint(now)
		if text == s.last {
			continue
		}
		s.last = text
		if err := s.out.Encode(now); err != nil {
			return
		}
	}
}
