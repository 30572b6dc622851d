//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/steady"
)

// pps is the rate of the flows that must not lose a packet.
const pps = 1000

// fault runs one of the testbed's faults and heals all of them when the test ends.
func fault(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := cluster.Testbed(context.Background(), "fault", "heal", "--all"); err != nil {
			t.Error(err)
		}
	})
	if _, err := cluster.Testbed(t.Context(), append([]string{"fault"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// steadyFlows sends 1,000 packets a second between two nodes, in both families at once, while
// disturb runs, and requires that every packet arrived.
func steadyFlows(t *testing.T, port uint16, length time.Duration, disturb func()) {
	t.Helper()
	flows := startFlows(t, &probes.Pods[1], &probes.Pods[2], port, length)
	disturb()
	flows.allArrive(t)
}

// flows go from one Pod to another, in each family one.
type flows struct {
	length  time.Duration
	packets int
	of      map[netip.Addr]*steady.Flow
	nodes   []string
	// queues is what the queues of the tunnel had dropped before.
	queues map[string]int
}

func startFlows(t *testing.T, from, to *corev1.Pod, port uint16, length time.Duration) flows {
	t.Helper()
	f := flows{length: length, packets: int(length.Seconds() * pps), of: map[netip.Addr]*steady.Flow{}, nodes: []string{from.Spec.NodeName, to.Spec.NodeName}}
	f.queues = tunnelQueues(t, f.nodes...)
	sender, receiver := podNamespace(t, from), podNamespace(t, to)
	for _, target := range harness.Addresses(to) {
		f.of[target] = steady.Start(t, sender, receiver, netip.AddrPortFrom(target, port), pps, f.packets)
	}
	return f
}

// allArrive waits for the end of the flows, and tells which queues of the tunnel were full meanwhile: it is where a packet may have been lost.
func (f flows) allArrive(t *testing.T) {
	t.Helper()
	for target, flow := range f.of {
		lost, which := flow.Lost()
		t.Logf("flow to %s: %d packets, %d lost; the longest pause of the sender was %s", target, f.packets, lost, flow.Pause().Round(time.Millisecond))
		if flow.Pause() > f.length/2 {
			t.Errorf("flow to %s: nothing was sent for %s: the test proves little", target, flow.Pause())
		}
		if lost != 0 {
			t.Errorf("flow to %s: %d of %d packets were lost: %s", target, lost, f.packets, which)
		}
	}
	for queue, dropped := range tunnelQueues(t, f.nodes...) {
		if dropped > f.queues[queue] {
			t.Logf("the queue to %s was full: %d packets dropped", queue, dropped-f.queues[queue])
		}
	}
}

func podNamespace(t *testing.T, pod *corev1.Pod) *nstest.Namespace {
	t.Helper()
	path, err := cluster.PodNamespace(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return nstest.Open(t, path)
}

// tunnelQueues counts, for each queue that WireGuard's process on a node reads from, what was dropped because it was full.
func tunnelQueues(t *testing.T, nodes ...string) map[string]int {
	t.Helper()
	drops := map[string]int{}
	for _, node := range nodes {
		v4, v6, err := harness.ParseOverruns(inNode(t, node, "cat", "/proc/net/snmp", "/proc/net/snmp6"))
		if err != nil {
			t.Fatal(err)
		}
		drops["sockets of "+node] = v4 + v6
		device, err := strconv.Atoi(strings.TrimSpace(inNode(t, node, "cat", "/sys/class/net/weft0/statistics/tx_dropped")))
		if err != nil {
			t.Fatal(err)
		}
		drops["weft0 of "+node] = device
	}
	return drops
}

// liveTCP has a TCP stream between two nodes in each family at once, well below what the mesh can carry, and gives a
// function that waits for their end and requires that each went on: not reset, and in no second silent.
func liveTCP(t *testing.T, port uint16, length time.Duration) (wait func()) {
	t.Helper()
	from, to := &probes.Pods[1], &probes.Pods[2]
	targets := harness.Addresses(to)
	results, errs := make([]harness.StreamResult, len(targets)), make([]error, len(targets))
	var streams sync.WaitGroup
	for i, target := range targets {
		at := port + uint16(i)
		if err := cluster.ServeStreams(t.Context(), to, at); err != nil {
			t.Fatal(err)
		}
		streams.Go(func() {
			results[i], errs[i] = cluster.RunStream(t.Context(), harness.Stream{From: from, To: target, Port: at, For: length, BitsPerSecond: 8_000_000})
		})
	}
	return func() {
		t.Helper()
		streams.Wait()
		for i, target := range targets {
			r := results[i]
			t.Logf("TCP to %s: %.1f Mbit/s, %d segments sent again, silent in %d of %d seconds", target, r.BitsPerSecond/1e6, r.Retransmits, r.Idle, r.Seconds)
			if errs[i] != nil || r.Idle > 0 || r.Seconds < int(length.Seconds()) {
				t.Errorf("TCP to %s did not go on: silent in %d of %d seconds: %v", target, r.Idle, r.Seconds, errs[i])
			}
		}
	}
}

// TestKillingAgentsLosesNoPacket kills the agents on both sides of live flows and live TCP streams with SIGKILL.
func TestKillingAgentsLosesNoPacket(t *testing.T) {
	const length = 20 * time.Second
	streams := liveTCP(t, 5313, length)
	steadyFlows(t, 5311, length, func() {
		fault(t, "kill", "agent", "--node=tb-node2,tb-node3")
	})
	streams()
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
}

// TestOperatorDown holds every operator still: traffic and new Pods do not need it.
func TestOperatorDown(t *testing.T) {
	fault(t, "pause", "operator")
	steadyFlows(t, 5321, 5*time.Second, func() {
		spec := podSpec("pause")
		spec.NodeName = "tb-node2"
		startPod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "no-operator"}, Spec: spec})
	})
}

// TestCutLinkIsToldAndHeals cuts UDP between two nodes that talk to each other: both say which peer is lost, long
// before its session has ended, the third pair goes on, and after healing all are connected again.
func TestCutLinkIsToldAndHeals(t *testing.T) {
	talk(t, 1, 2)
	talk(t, 2, 1)
	fault(t, "cut", "tb-node2", "tb-node3", "--udp")
	begin := time.Now()
	for node, peer := range map[string]string{"tb-node2": "tb-node3", "tb-node3": "tb-node2"} {
		err := harness.Eventually(t.Context(), time.Minute, node+" tells that it lost "+peer, func(ctx context.Context) error {
			return lostPeer(t, node, peer)
		})
		if err != nil {
			t.Error(err)
		}
		t.Logf("%s told of it %s after the cut", node, time.Since(begin).Round(100*time.Millisecond))
	}
	if _, err := cluster.Testbed(t.Context(), "fault", "heal", "--all"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
	checkAllPairs(t)
}

// talk sends a packet now and then from one probe Pod to another until the test ends.
func talk(t *testing.T, from, to int) {
	t.Helper()
	pod := &probes.Pods[from]
	command := fmt.Sprintf("setsid ping -i 0.5 %s > /dev/null 2>&1 < /dev/null & echo $!", harness.Addresses(&probes.Pods[to])[0])
	pid, err := cluster.Exec(t.Context(), pod, "bash", "-c", command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cluster.Exec(context.Background(), pod, "bash", "-c", "kill "+pid); err != nil {
			t.Error(err)
		}
	})
}

func lostPeer(t *testing.T, node, peer string) error {
	for _, condition := range meshNode(t, node).Status.Conditions {
		if condition.Type != v1alpha1.ConditionPeersConnected {
			continue
		}
		if condition.Status == metav1.ConditionFalse && strings.Contains(condition.Message, peer) {
			return nil
		}
		return fmt.Errorf("PeersConnected is %s: %s", condition.Status, condition.Message)
	}
	return fmt.Errorf("no condition PeersConnected yet")
}

// checkAllPairs requires an answer between every two Pods.
func checkAllPairs(t *testing.T) {
	t.Helper()
	hops, err := cluster.PodHops(t.Context(), probes)
	if err != nil {
		t.Fatal(err)
	}
	for _, hop := range hops {
		checkSource(t, hop, podAddresses(hop.From))
	}
}
