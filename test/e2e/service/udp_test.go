//go:build e2e

package service

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestLongLivedUDP keeps one UDP socket open for each way while the endpoints come, go and are
// replaced: the socket, whose flow the kernel remembers, must follow each time.
func TestLongLivedUDP(t *testing.T) {
	s := makeService(t, "statsd", func(spec *corev1.ServiceSpec) { spec.Selector, spec.Type = nil, corev1.ServiceTypeNodePort })
	setEndpoints(t, s.Name)
	var sockets []*socket
	for family := range 2 {
		cluster := netip.AddrPortFrom(clusterIPs(s)[family], portUDP)
		port := netip.AddrPortFrom(nodeAddrs(0)[family], nodePort(s, corev1.ProtocolUDP))
		sockets = append(sockets,
			open(t, podPlace(t, &probes.Pods[0]), cluster), open(t, podPlace(t, &probes.Pods[2]), cluster), open(t, nodePlace(t, 0), cluster),
			open(t, podPlace(t, &probes.Pods[0]), port), open(t, nodePlace(t, 1), port), open(t, outsidePlace(t, 1+family), port))
	}
	steps := []struct {
		name string
		pods []*corev1.Pod
	}{
		{"none", nil}, {"the first", []*corev1.Pod{&probes.Pods[1]}}, {"another in its place", []*corev1.Pod{&probes.Pods[2]}},
		{"none again", nil}, {"the first again", []*corev1.Pod{&probes.Pods[0]}}, {"one more", []*corev1.Pod{&probes.Pods[0], &probes.Pods[1]}},
		{"only the one more", []*corev1.Pod{&probes.Pods[1]}},
	}
	for _, step := range steps {
		setEndpoints(t, s.Name, step.pods...)
		for _, k := range sockets {
			k.follows(t, step.name, step.pods)
		}
	}
}

// socket is connected, and keeps its port.
type socket struct {
	net.Conn
	from place
}

func open(t *testing.T, from place, to netip.AddrPort) *socket {
	t.Helper()
	c, err := from.dial(t, "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &socket{Conn: c, from: from}
}

// follows sends again and again until three answers in a row come from the right Pods, or none at all.
func (k *socket) follows(t *testing.T, step string, pods []*corev1.Pod) {
	t.Helper()
	names := map[string]bool{}
	for _, p := range pods {
		names[p.Name] = true
	}
	eventually(t, fmt.Sprintf("with %s as endpoint, the socket of %s to %s follows", step, k.from.name, k.RemoteAddr()), func() error {
		for range 3 {
			who, err := k.ask(len(pods) > 0)
			if len(pods) == 0 && err == nil {
				return fmt.Errorf("%s still answers", who)
			}
			if len(pods) > 0 && (err != nil || !names[who]) {
				return errors.Join(fmt.Errorf("answered by %q", who), err)
			}
		}
		return nil
	})
}

// ask waits long for an answer where one should come, and otherwise for as long as one would take.
func (k *socket) ask(answer bool) (string, error) {
	// What came late belongs to an earlier question.
	_ = k.SetReadDeadline(time.Now().Add(time.Millisecond))
	late := make([]byte, 512)
	for {
		if _, err := k.Read(late); err != nil {
			break
		}
	}
	if _, err := io.WriteString(k, "hostname"); err != nil {
		return "", err
	}
	patience := 300 * time.Millisecond
	if answer {
		patience = 2 * time.Second
	}
	_ = k.SetReadDeadline(time.Now().Add(patience))
	n, err := k.Read(late)
	return string(late[:n]), err
}
