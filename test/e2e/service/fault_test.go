//go:build e2e

package service

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
)

const table = "weftnet-service"

// onNode runs a program in a node's network namespace.
func onNode(t *testing.T, number int, name string, args ...string) (string, error) {
	t.Helper()
	var out []byte
	var err error
	nodePlace(t, number).ns.Do(t, func() { out, err = exec.Command(name, args...).CombinedOutput() })
	return string(out), err
}

// makeMany makes Services of one port with the probes behind them, and gives their addresses.
func makeMany(t *testing.T, prefix string, count int) [][]netip.Addr {
	t.Helper()
	t.Cleanup(func() { deleteMany(t, prefix) })
	out, err := tryMany(t.Context(), prefix, count)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryMany(ctx context.Context, prefix string, count int) ([][]netip.Addr, error) {
	out := make([][]netip.Addr, count)
	errs := make([]error, count)
	inParallel(count, func(i int) { out[i], errs[i] = makeOne(ctx, fmt.Sprintf("%s-%d", prefix, i), prefix) })
	return out, errors.Join(errs...)
}

func inParallel(count int, do func(int)) {
	var group sync.WaitGroup
	work := make(chan int)
	for range 8 {
		group.Go(func() {
			for i := range work {
				do(i)
			}
		})
	}
	for i := range count {
		work <- i
	}
	close(work)
	group.Wait()
}

func makeOne(ctx context.Context, name, group string) ([]netip.Addr, error) {
	both := corev1.IPFamilyPolicyRequireDualStack
	s, err := cluster.Client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"group": group}},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: &both, Selector: map[string]string{"app": "probe"},
			Ports: []corev1.ServicePort{{Port: portTCP, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(podTCP)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return clusterIPs(s), nil
}

func deleteMany(t *testing.T, prefix string) {
	t.Helper()
	services := cluster.Client.CoreV1().Services(namespace)
	all, err := services.List(context.Background(), metav1.ListOptions{LabelSelector: "group=" + prefix})
	if err != nil {
		t.Error(err)
		return
	}
	inParallel(len(all.Items), func(i int) {
		_ = services.Delete(context.Background(), all.Items[i].Name, metav1.DeleteOptions{})
	})
}

// all waits until each of the addresses answers, or none of them does, as seen from a place.
func all(t *testing.T, from place, limit time.Duration, addrs [][]netip.Addr, answer bool) {
	t.Helper()
	var waiting []netip.AddrPort
	for _, both := range addrs {
		for _, a := range both {
			waiting = append(waiting, netip.AddrPortFrom(a, portTCP))
		}
	}
	err := harness.Eventually(t.Context(), limit, fmt.Sprintf("%s: %d addresses answer: %t", from.name, len(waiting), answer), func(context.Context) error {
		done, last := from.dialAll(t, waiting, answer)
		if waiting = waiting[done:]; len(waiting) > 0 {
			return errors.Join(fmt.Errorf("%s and %d others are not", waiting[0], len(waiting)-1), last)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// elements counts the lines of the service table on a node that are not counters.
func elements(t *testing.T, number int) int {
	t.Helper()
	out, err := onNode(t, number, "nft", "--json", "--stateless", "list", "table", "inet", table)
	if err != nil {
		t.Fatalf("list the table: %v: %s", err, out)
	}
	return strings.Count(out, ".")
}

// TestThousandServices makes a thousand Services in a burst, and removes them: all serve on every node,
// and nothing of them stays.
func TestThousandServices(t *testing.T) {
	from := []place{nodePlace(t, 0), podPlace(t, &probes.Pods[1]), nodePlace(t, 2)}
	before := elements(t, 0)
	addrs := makeMany(t, "burst", 1000)
	for _, p := range from {
		all(t, p, 5*time.Minute, addrs, true)
	}
	if during := elements(t, 0); during < before+2000 {
		t.Errorf("with 1,000 Services the table has %d parts, and without them %d: this counts nothing", during, before)
	}
	deleteMany(t, "burst")
	eventually(t, "the table is as it was", func() error {
		if after := elements(t, 0); after > before {
			return fmt.Errorf("%d parts more than before", after-before)
		}
		return nil
	})
}

// TestAgentKilledWhileProgramming kills the agents in the middle of a burst of Services and endpoints.
func TestAgentKilledWhileProgramming(t *testing.T) {
	t.Cleanup(func() { deleteMany(t, "killed") })
	var addrs [][]netip.Addr
	made := make(chan error, 1)
	go func() {
		var err error
		addrs, err = tryMany(t.Context(), "killed", 400)
		made <- err
	}()
	t.Cleanup(func() { heal(t) })
	for range 3 { // those of the last time may not be back yet
		eventually(t, "an agent is killed", func() error {
			_, err := cluster.Testbed(t.Context(), "fault", "kill", "agent")
			return err
		})
	}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	for _, p := range []place{nodePlace(t, 0), podPlace(t, &probes.Pods[1]), nodePlace(t, 2)} {
		all(t, p, 5*time.Minute, addrs, true)
	}
	deleteMany(t, "killed")
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
}

// TestTableDeletedByAnother : a foreign program deletes the table, and every connection through a
// Service with it; it comes back by itself, and the agent tells.
func TestTableDeletedByAnother(t *testing.T) {
	s := makeService(t, "deleted", nil)
	to := netip.AddrPortFrom(clusterIPs(s)[0], portTCP)
	reaches(t, nodePlace(t, 1), corev1.ProtocolTCP, to, allPods()...)
	if out, err := onNode(t, 1, "nft", "delete", "table", "inet", table); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	began := time.Now()
	for _, ip := range clusterIPs(s) {
		for _, protocol := range protocols {
			reaches(t, nodePlace(t, 1), protocol, netip.AddrPortFrom(ip, portOf(protocol)), allPods()...)
		}
	}
	t.Logf("all serve again %s after the table was deleted", time.Since(began).Round(time.Millisecond))
	node := probes.Hosts[1].Spec.NodeName
	awaitEvent(t, "default", "MeshNode", node, "ServiceTableRepaired", table)
	eventually(t, "the condition tells of it", func() error {
		var n v1alpha1.MeshNode
		if err := cluster.Mesh.Get(t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
			return err
		}
		c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionServiceProxyReady)
		if c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "another program had changed or deleted") {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// TestElementDeletedByAnother takes single elements away.
func TestElementDeletedByAnother(t *testing.T) {
	s := makeService(t, "flushed", nil)
	to := netip.AddrPortFrom(clusterIPs(s)[0], portTCP)
	reaches(t, nodePlace(t, 1), corev1.ProtocolTCP, to, allPods()...)
	out, err := onNode(t, 1, "nft", "--stateless", "list", "maps", "inet")
	if err != nil {
		t.Fatal(err)
	}
	flushed := 0
	inTable := false
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) >= 3 && words[0] == "table" {
			inTable = words[2] == table
		}
		if inTable && len(words) >= 2 && words[0] == "map" {
			if out, err := onNode(t, 1, "nft", "flush", "map", "inet", table, words[1]); err != nil {
				t.Fatalf("flush map %s: %v: %s", words[1], err, out)
			}
			flushed++
		}
	}
	if flushed == 0 {
		t.Fatal("the table has no map")
	}
	reaches(t, nodePlace(t, 1), corev1.ProtocolTCP, to, allPods()...)
}

// TestAPIServerDown : Services go on without it, through a restart of the agents too.
func TestAPIServerDown(t *testing.T) {
	s := makeService(t, "alone", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	from := []place{nodePlace(t, 0), podPlace(t, &probes.Pods[1]), outsidePlace(t, 1)}
	check := func() {
		for _, p := range from[:2] {
			for _, ip := range clusterIPs(s) {
				reaches(t, p, corev1.ProtocolTCP, netip.AddrPortFrom(ip, portTCP), allPods()...)
			}
		}
		for _, a := range nodeAddrs(2) {
			reaches(t, from[2], corev1.ProtocolTCP, netip.AddrPortFrom(a, nodePort(s, corev1.ProtocolTCP)), allPods()...)
		}
	}
	check()
	fault(t, "api", "stop")
	check()
	fault(t, "kill", "agent")
	l := startLoad(t, 50, []aim{{from[0], netip.AddrPortFrom(clusterIPs(s)[0], portTCP)}, {from[1], netip.AddrPortFrom(clusterIPs(s)[1], portTCP)}})
	began := time.Now()
	check()
	l.end(t, 50, time.Since(began))
	heal(t)
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
	check()
}
