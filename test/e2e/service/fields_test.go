//go:build e2e

package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

// proxied are addresses of a load balancer in ipMode Proxy: it does not hand packets on with its own address.
var proxied = []netip.Addr{netip.MustParseAddr("203.0.113.11"), netip.MustParseAddr("2001:db8:1::11")}

// TestLoadBalancerOfAnotherClass : its controller's addresses are served, those in ipMode Proxy are not, no node
// port is open that was not asked for, and nothing of it is written by Weftnet.
func TestLoadBalancerOfAnotherClass(t *testing.T) {
	class, no := "example.com/other", false
	s := makeService(t, "class", func(spec *corev1.ServiceSpec) {
		spec.Type, spec.LoadBalancerClass, spec.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, &class, &no
	})
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			t.Fatalf("port %s has node port %d", p.Name, p.NodePort)
		}
	}
	giveAddresses(t, s, loadBalancerIPs)
	mode := corev1.LoadBalancerIPModeProxy
	for _, a := range proxied {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	want, err := cluster.Client.CoreV1().Services(namespace).UpdateStatus(t.Context(), s, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	outside := outsidePlace(t, 1)
	for family := range 2 {
		outside.route(t, loadBalancerIPs[family], nodeAddrs(1)[family])
		outside.route(t, proxied[family], nodeAddrs(1)[family])
	}
	for _, from := range append(insiders(t), outside) {
		eachWay(func(family int, protocol corev1.Protocol) {
			reaches(t, from, protocol, netip.AddrPortFrom(loadBalancerIPs[family], portOf(protocol)), allPods()...)
		})
	}
	for _, from := range []place{podPlace(t, &probes.Pods[0]), outside} {
		for _, a := range proxied {
			if who, err := from.ask(t, corev1.ProtocolTCP, netip.AddrPortFrom(a, portTCP), "hostname"); err == nil {
				t.Errorf("%s asks %s, of ipMode Proxy, and %s answers", from.name, a, who)
			}
		}
	}
	got, err := cluster.Client.CoreV1().Services(namespace).Get(t.Context(), s.Name, metav1.GetOptions{})
	if err != nil || !equality.Semantic.DeepEqual(got.Status, want.Status) || got.ResourceVersion != want.ResourceVersion {
		t.Errorf("somebody has written the Service: %+v, %v; it was %+v", got, err, want)
	}
}

// TestServiceOfAnotherProxy : one whose label names another proxy is left alone, from the moment that it does.
func TestServiceOfAnotherProxy(t *testing.T) {
	s := makeService(t, "other-proxy", nil)
	from := podPlace(t, &probes.Pods[0])
	to := netip.AddrPortFrom(clusterIPs(s)[0], portTCP)
	reaches(t, from, corev1.ProtocolTCP, to, allPods()...)
	label := func(value string) {
		t.Helper()
		got, err := cluster.Client.CoreV1().Services(namespace).Get(t.Context(), s.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": value}
		if value == "" {
			got.Labels = nil
		}
		if _, err := cluster.Client.CoreV1().Services(namespace).Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label("other")
	fails(t, from, corev1.ProtocolTCP, to, dropped, "dropped") // an address of the range that nobody here has
	label("")
	reaches(t, from, corev1.ProtocolTCP, to, allPods()...)
}

// TestServiceCIDRsComeAndGo : what the cluster adds to its ranges, and takes away, is followed while it runs.
func TestServiceCIDRsComeAndGo(t *testing.T) {
	ranges := []string{"10.111.7.0/24", "fd00:111::/112"}
	cidrs := cluster.Client.NetworkingV1().ServiceCIDRs()
	remove := func() { _ = cidrs.Delete(context.Background(), "weftnet-e2e", metav1.DeleteOptions{}) }
	remove()
	eventually(t, "a range of an earlier run is gone", func() error {
		_, err := cidrs.Create(t.Context(), &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "weftnet-e2e"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges},
		}, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(remove)
	has := func(want bool) {
		t.Helper()
		for node := range probes.Hosts {
			for i, set := range []string{"service-cidrs4", "service-cidrs6"} {
				eventually(t, fmt.Sprintf("node %d drops %s: %t", node+1, ranges[i], want), func() error {
					out, err := onNode(t, node, "nft", "list", "set", "inet", table, set)
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					if strings.Contains(out, ranges[i]) != want {
						return errors.New(out)
					}
					return nil
				})
			}
		}
	}
	has(true)
	for i, from := range []place{podPlace(t, &probes.Pods[0]), nodePlace(t, 1)} {
		to := netip.MustParseAddr([]string{"10.111.7.9", "fd00:111::9"}[i])
		fails(t, from, corev1.ProtocolTCP, netip.AddrPortFrom(to, portTCP), dropped, "dropped")
	}
	remove()
	has(false)
}

// TestNodePortClashIsTold : a process that listens where a NodePort is gets nothing from outside, and an event of
// the Service says so.
func TestNodePortClashIsTold(t *testing.T) {
	s := makeService(t, "clash", func(spec *corev1.ServiceSpec) { spec.Type = corev1.ServiceTypeNodePort })
	port := nodePort(s, corev1.ProtocolTCP)
	to := netip.AddrPortFrom(nodeAddrs(1)[0], port)
	var l net.Listener
	var err error
	nodePlace(t, 1).ns.Do(t, func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	reaches(t, outsidePlace(t, 1), corev1.ProtocolTCP, to, allPods()...)
	awaitEvent(t, namespace, "Service", s.Name, "NodePortInUse", fmt.Sprintf("NodePort %d/tcp", port))
}

// awaitEvent waits until an object has an event for a reason that says something.
func awaitEvent(t *testing.T, namespace, kind, name, reason, says string) {
	t.Helper()
	err := harness.Eventually(t.Context(), settle, fmt.Sprintf("an event %s of %s %s", reason, kind, name), func(ctx context.Context) error {
		all, err := cluster.Client.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason})
		if err != nil {
			return err
		}
		for _, e := range all.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && strings.Contains(e.Note, says) && time.Since(e.EventTime.Time) < 10*time.Minute {
				return nil
			}
		}
		return fmt.Errorf("none of %d says %q", len(all.Items), says)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWhereConnectionsAreTranslated : at the socket no packet is, and so no connection through a Service is known
// to the node's connection tracking as one; through the rules it is. Without this, -sockets might show nothing.
func TestWhereConnectionsAreTranslated(t *testing.T) {
	s := makeService(t, "translated", withoutSelector)
	setEndpoints(t, s.Name, &probes.Pods[2])
	for _, from := range []place{podPlace(t, &probes.Pods[0]), nodePlace(t, 0)} {
		for _, ip := range clusterIPs(s) {
			to := netip.AddrPortFrom(ip, portTCP)
			reaches(t, from, corev1.ProtocolTCP, to, &probes.Pods[2])
			c, err := from.dial(t, "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			local := netip.MustParseAddrPort(c.LocalAddr().String())
			if peer := c.RemoteAddr().String(); peer != to.String() {
				t.Errorf("%s asked for %s, and its peer is %s", from.name, to, peer)
			}
			translated := false
			for _, f := range tcpFlows(0) {
				translated = translated || f.Original.Src == local && f.Original.Dst == to
			}
			if translated == *atSockets {
				t.Errorf("%s to %s: translated %t, at sockets %t", from.name, to, translated, *atSockets)
			}
			_ = c.Close()
		}
	}
}
