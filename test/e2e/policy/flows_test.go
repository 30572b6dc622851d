//go:build e2e

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

const firstPort, lastPort = 1000, 1124

// live is how long a flow that is allowed may take to answer on a busy machine.
const live = 15 * time.Second

// serve echoes on all ports in a Pod, over TCP and UDP.
func serve(t *testing.T, p place) {
	t.Helper()
	var errs []error
	p.Do(t, func() {
		for port := firstPort; port <= lastPort+1; port++ {
			at := fmt.Sprintf("[::]:%d", port)
			tcp, err := net.Listen("tcp", at)
			errs = append(errs, err)
			udp, err2 := net.ListenPacket("udp", at)
			errs = append(errs, err2)
			if err == nil && err2 == nil {
				t.Cleanup(func() { _ = errors.Join(tcp.Close(), udp.Close()) })
				go echoTCP(tcp)
				go echoUDP(udp)
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func echoTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var b [64]byte
			for {
				n, err := c.Read(b[:])
				if err != nil {
					return
				}
				_, _ = c.Write(b[:n])
			}
		}()
	}
}

func echoUDP(c net.PacketConn) {
	var b [64]byte
	for {
		n, from, err := c.ReadFrom(b[:])
		if err != nil {
			return
		}
		_, _ = c.WriteTo(b[:n], from)
	}
}

// flow is open, and has carried data.
type flow struct {
	net.Conn
	name string
	port int
}

// answers sends and waits for the echo; a datagram may be lost on a busy machine, so thrice.
func (f flow) answers(patience time.Duration) error {
	var err error
	for range 3 {
		_ = f.SetDeadline(time.Now().Add(patience))
		if _, err = f.Write([]byte("hello")); err == nil {
			var b [64]byte
			if _, err = f.Read(b[:]); err == nil {
				return nil
			}
		}
		if f.LocalAddr().Network() == "tcp" {
			break
		}
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

func dial(t *testing.T, from place, network string, to netip.AddrPort, patience time.Duration) (flow, error) {
	t.Helper()
	var c net.Conn
	var err error
	from.Do(t, func() { c, err = net.DialTimeout(network, to.String(), patience) })
	if err != nil {
		return flow{}, err
	}
	t.Cleanup(func() { _ = c.Close() })
	return flow{c, fmt.Sprintf("%s from %s to %s", network, from.pod.Spec.NodeName, to), int(to.Port())}, nil
}

// stage is a server under a policy that lets the probes in at a range of ports, a client on its own node
// and one on another.
type stage struct {
	namespace string
	server    place
	clients   []place
}

func newStage(t *testing.T) stage {
	t.Helper()
	s := stage{namespace: makeNamespace(t)}
	makePolicy(t, s.namespace, ingressPolicy("ports", s.rule(lastPort)))
	if _, err := makePod(t.Context(), s.namespace, "server", nodeName(1)); err != nil {
		t.Fatal(err)
	}
	pods, err := cluster.WaitPods(t.Context(), s.namespace, "app=silent", 1, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s.server = placeOf(t, &pods[0])
	s.clients = []place{placeOf(t, &probes.Pods[1]), placeOf(t, &probes.Pods[2])}
	serve(t, s.server)
	return s
}

func (s stage) rule(last int32) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{Ports: portRange(firstPort, last), From: []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: namespaceNamed(harness.ProbeNamespace), PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "probe"}}},
	}}
}

// allow changes the policy.
func (s stage) allow(t *testing.T, last int32) {
	t.Helper()
	policies := cluster.Client.NetworkingV1().NetworkPolicies(s.namespace)
	p, err := policies.Get(t.Context(), "ports", metav1.GetOptions{})
	if err == nil {
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{s.rule(last)}
		_, err = policies.Update(t.Context(), p, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dials opens flows to the ports over both protocols and families from both clients.
func (s stage) dials(t *testing.T, first, last int) []flow {
	t.Helper()
	var flows []flow
	for port := first; port <= last; port++ {
		for _, client := range s.clients {
			for _, addr := range harness.Addresses(s.server.pod) {
				for _, network := range []string{"tcp", "udp"} {
					f, err := dial(t, client, network, netip.AddrPortFrom(addr, uint16(port)), live)
					if err != nil {
						t.Fatal(err)
					}
					flows = append(flows, f)
				}
			}
		}
	}
	return flows
}

// answering asks all flows at once and gives the errors of those that do not answer.
func answering(flows []flow, patience time.Duration) (failed map[string]error) {
	failed = map[string]error{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, f := range flows {
		all.Go(func() {
			if err := f.answers(patience); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[f.LocalAddr().Network()+f.LocalAddr().String()+f.name] = err
			}
		})
	}
	all.Wait()
	return failed
}

// standing requires that all of these flows answer.
func standing(t *testing.T, what string, flows []flow) {
	t.Helper()
	for _, err := range answering(flows, live) {
		t.Errorf("%s: %v", what, err)
	}
}

// closed requires that nothing gets through to a port that no rule allows.
func (s stage) closed(t *testing.T, port uint16) error {
	t.Helper()
	var mu sync.Mutex
	var through []error
	var all sync.WaitGroup
	for _, client := range s.clients {
		for _, addr := range harness.Addresses(s.server.pod) {
			for _, network := range []string{"tcp", "udp"} {
				all.Go(func() {
					f, err := dial(t, client, network, netip.AddrPortFrom(addr, port), 2*time.Second)
					if err == nil && network == "udp" {
						err = f.answers(300 * time.Millisecond)
					}
					if err == nil {
						mu.Lock()
						defer mu.Unlock()
						through = append(through, fmt.Errorf("%s gets through", f.name))
					}
				})
			}
		}
	}
	all.Wait()
	return errors.Join(through...)
}

// TestRevocation : of 1,000 live flows the policy forbids 16. Those end, and no other.
func TestRevocation(t *testing.T) {
	s := newStage(t)
	flows := s.dials(t, firstPort, lastPort)
	standing(t, "allowed", flows)
	const revoked = 2
	s.allow(t, lastPort-revoked)
	var cut, rest []flow
	for _, f := range flows {
		if f.port > lastPort-revoked {
			cut = append(cut, f)
		} else {
			rest = append(rest, f)
		}
	}
	begin := time.Now()
	eventually(t, "what is forbidden has ended", func() error {
		if failed := answering(cut, 200*time.Millisecond); len(failed) != len(cut) {
			return fmt.Errorf("%d of %d flows have ended", len(failed), len(cut))
		}
		return nil
	})
	t.Logf("%d of %d flows had ended %s after the change", len(cut), len(flows), time.Since(begin).Round(time.Millisecond))
	standing(t, "still allowed", rest)
	if err := s.closed(t, lastPort); err != nil {
		t.Error(err)
	}
}

// TestExplainAgrees : the command says of each port what is seen.
func TestExplainAgrees(t *testing.T) {
	s := newStage(t)
	standing(t, "allowed", s.dials(t, firstPort, firstPort))
	if err := s.closed(t, lastPort+1); err != nil {
		t.Error(err)
	}
	for port, want := range map[int]bool{firstPort: true, lastPort + 1: false} {
		for _, client := range s.clients {
			for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
				out, err := weft(t, "policy", "explain", "-o", "json", "--protocol", strings.ToLower(string(protocol)),
					"--from", client.pod.Namespace+"/"+client.pod.Name, "--to", fmt.Sprintf("%s/server:%d", s.namespace, port))
				var answer struct {
					Allowed bool
					Flows   []struct{ Ingress struct{ Policies []string } }
				}
				if jsonErr := json.Unmarshal([]byte(out), &answer); jsonErr != nil {
					t.Fatalf("%v: %v\n%s", jsonErr, err, out)
				}
				if answer.Allowed != want || (err == nil) != want || len(answer.Flows) != 2 || !strings.Contains(strings.Join(answer.Flows[0].Ingress.Policies, " "), s.namespace+"/ports") {
					t.Errorf("%s port %d: seen to be allowed: %t; explained: %s (%v)", protocol, port, want, out, err)
				}
			}
		}
	}
}

// TestAgentKilled : while it is dead and until it is back, what is allowed passes and nothing else.
func TestAgentKilled(t *testing.T) {
	s := newStage(t)
	flows := s.dials(t, firstPort, firstPort+2)
	standing(t, "allowed", flows)
	fault(t, "kill", "agent", "--node", nodeName(1))
	for range 3 {
		if err := s.closed(t, lastPort+1); err != nil {
			t.Errorf("after the agent was killed: %v", err)
		}
		standing(t, "after the agent was killed", flows)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
	if err := s.closed(t, lastPort+1); err != nil {
		t.Errorf("with the agent back: %v", err)
	}
	standing(t, "with the agent back", flows)
	s.allow(t, lastPort+1)
	eventually(t, "the agent that is back obeys", func() error {
		if s.closed(t, lastPort+1) == nil {
			return errors.New("the port is still closed")
		}
		return nil
	})
}

// TestTableDeleted : the rules are back soon, and what they forbid is closed.
func TestTableDeleted(t *testing.T) {
	s := newStage(t)
	flows := s.dials(t, firstPort, firstPort+2)
	standing(t, "allowed", flows)
	begin := time.Now()
	if out, err := onNode(t, 1, "nft delete table inet weftnet-policy"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "the table is back", func() error {
		_, err := onNode(t, 1, "nft list chain inet weftnet-policy forward")
		return err
	})
	t.Logf("the table was back %s after it was deleted", time.Since(begin).Round(time.Millisecond))
	if err := s.closed(t, lastPort+1); err != nil {
		t.Error(err)
	}
	standing(t, "after the repair", flows)
}
