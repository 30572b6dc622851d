//go:build e2e

package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// TestNoPacketBeforeThePolicy starts Pods under a policy that lets nobody in, while a Pod on each
// node sends UDP and TCP without pause to every address that a Pod gets, each millisecond to those that have
// just got a route. The kernel has counted what a Pod received since its namespace was made: nothing. One
// Pod a wave and node is under no policy, and shows that the senders are there in time.
func TestNoPacketBeforeThePolicy(t *testing.T) {
	closed, open, before := makeNamespace(t), makeNamespace(t), makeNamespace(t)
	makePolicy(t, closed, ingressPolicy("nobody"))
	for wave := range waves {
		startWave(t, before, nodes)
		flood := startFlood(t, ready(t, before, nodes))
		startWave(t, closed, waveSize)
		startWave(t, open, nodes)
		pods, free := ready(t, closed, waveSize), ready(t, open, nodes)
		eventually(t, "packets reach the Pods without a policy", func() error { return allReached(processes(t), free) })
		sent := flood.stop()
		reached, by := 0, processes(t)
		for _, pod := range pods {
			flood.covers(t, &pod)
			if got := receivedBy(t, by, &pod); got != (received{}) {
				t.Errorf("Pod %s on %s received %+v", pod.Name, pod.Spec.NodeName, got)
				reached++
			}
		}
		t.Logf("wave %d: %s; %d of %d Pods under the policy received any", wave+1, sent, reached, len(pods))
		for _, namespace := range []string{closed, open, before} {
			empty(t, namespace)
		}
	}
}

// startWave makes Pods, as many on each node.
func startWave(t *testing.T, namespace string, count int) {
	t.Helper()
	if err := makeWave(t.Context(), namespace, count); err != nil {
		t.Fatal(err)
	}
}

func makeWave(ctx context.Context, namespace string, count int) error {
	errs := make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { _, errs[i] = makePod(ctx, namespace, "pod-"+strconv.Itoa(i), nodeName(i%nodes)) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func ready(t *testing.T, namespace string, count int) []corev1.Pod {
	t.Helper()
	pods, err := cluster.WaitPods(t.Context(), namespace, "app=silent", count, 3*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

func empty(t *testing.T, namespace string) {
	t.Helper()
	now := int64(0)
	err := cluster.Client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ready(t, namespace, 0)
}

// received is what the kernel counts in a network namespace from its beginning, both whether
// somebody listens there or not.
type received struct{ udp4, udp6, tcp int }

func receivedBy(t *testing.T, processes map[string]string, pod *corev1.Pod) received {
	t.Helper()
	process, found := processes[string(pod.UID)]
	if !found {
		t.Fatalf("no process is in a cgroup of Pod %s", pod.Name)
	}
	snmp, err := os.ReadFile(filepath.Join(process, "net", "snmp"))
	if err != nil {
		t.Fatal(err)
	}
	snmp6, err := os.ReadFile(filepath.Join(process, "net", "snmp6"))
	if err != nil {
		t.Fatal(err)
	}
	v4 := counters(string(snmp))
	for line := range strings.Lines(string(snmp6)) {
		if f := strings.Fields(line); len(f) == 2 {
			v4[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	for _, name := range []string{"Udp:InDatagrams", "Udp:NoPorts", "Tcp:InSegs", "Udp6InDatagrams", "Udp6NoPorts"} {
		if _, found := v4[name]; !found {
			t.Fatalf("the kernel has no counter %s", name)
		}
	}
	return received{v4["Udp:InDatagrams"] + v4["Udp:NoPorts"], v4["Udp6InDatagrams"] + v4["Udp6NoPorts"], v4["Tcp:InSegs"]}
}

// counters reads pairs of lines, of names and of values.
func counters(text string) map[string]int {
	out := map[string]int{}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			out[names[0]+names[j]], _ = strconv.Atoi(values[j])
		}
	}
	return out
}

func allReached(by map[string]string, pods []corev1.Pod) error {
	for i := range pods {
		process := by[string(pods[i].UID)]
		snmp, err := os.ReadFile(filepath.Join(process, "net", "snmp"))
		if err != nil {
			return err
		}
		if c := counters(string(snmp)); c["Udp:NoPorts"] == 0 || c["Tcp:InSegs"] == 0 {
			return fmt.Errorf("none has reached Pod %s", pods[i].Name)
		}
		snmp6, err := os.ReadFile(filepath.Join(process, "net", "snmp6"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(snmp6)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "Udp6NoPorts" && f[1] == "0" {
				return fmt.Errorf("none over IPv6 has reached Pod %s", pods[i].Name)
			}
		}
	}
	return nil
}

// blocks are those that Pods' addresses come from.
func blocks(ctx context.Context) ([]netip.Prefix, error) {
	var list v1alpha1.MeshNodeList
	if err := cluster.Mesh.List(ctx, &list); err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, node := range list.Items {
		for _, cidr := range node.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(string(cidr))
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	return out, nil
}
