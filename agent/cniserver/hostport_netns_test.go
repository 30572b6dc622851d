//go:build linux && netns

package cniserver

import (
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/nstest"
)

// outside is a machine on the node's underlay: 192.0.2.2 and 2001:db8::2, the node being .1 and ::1.
func (n *testNode) outside() *nstest.Namespace {
	n.t.Helper()
	far := nstest.New(n.t)
	setUp := func(name, v4, v6 string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, text := range []string{v4, v6} {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			a.Flags = 2 // IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	var err error
	n.ns.Do(n.t, func() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink", PeerNamespace: netlink.NsFd(far.Fd())}
		if err = netlink.LinkAdd(veth); err == nil {
			err = setUp("uplink", "192.0.2.1/24", "2001:db8::1/64")
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	far.Do(n.t, func() { err = setUp("uplink", "192.0.2.2/24", "2001:db8::2/64") })
	if err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the underlay is up", func() bool {
		_, err4 := dial(n.t, far, "192.0.2.1:1")
		_, err6 := dial(n.t, far, "[2001:db8::1]:1")
		refused := func(err error) bool { return err != nil && strings.Contains(err.Error(), "refused") }
		return refused(err4) && refused(err6)
	})
	return far
}

// ask connects and returns what is said.
func ask(t *testing.T, from *nstest.Namespace, address string) (said string, err error) {
	t.Helper()
	from.Do(t, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", address, 5*time.Second); err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		var b []byte
		b, err = io.ReadAll(c)
		said = string(b)
	})
	return said, err
}

func mappings(ports ...map[string]any) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": ports}}
}

func TestHostPort(t *testing.T) {
	n := newNode(t)
	far := n.outside()
	config := mappings(
		map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		map[string]any{"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
		map[string]any{"hostPort": 0, "containerPort": 81, "protocol": "tcp"},
	)
	server, _ := n.addPod("server", config)
	serve(t, server, 80)
	client, clientIPs := n.addPod("client", nil)
	for _, c := range []struct{ address, source string }{
		{"192.0.2.1:8080", "192.0.2.2"}, {"[2001:db8::1]:8080", "2001:db8::2"}, {"192.0.2.1:8081", "192.0.2.2"},
	} {
		if said, err := ask(t, far, c.address); err != nil || !strings.Contains(said, c.source) {
			t.Errorf("from outside to %s: %q, %v; want to be seen as %s", c.address, said, err, c.source)
		}
	}
	for i, address := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080"} {
		if said, err := ask(t, client, address); err != nil || !strings.Contains(said, clientIPs[i].String()) {
			t.Errorf("from a pod to %s: %q, %v", address, said, err)
		}
		if _, err := ask(t, server, address); err != nil {
			t.Errorf("from the pod to itself through %s: %v", address, err)
		}
		if _, err := ask(t, n.ns, address); err != nil {
			t.Errorf("from the node to %s: %v", address, err)
		}
	}
	if _, err := ask(t, n.ns, "127.0.0.1:8080"); err != nil {
		t.Errorf("from the node to its loopback: %v", err)
	}
	if _, err := ask(t, client, "127.0.0.1:8080"); err == nil {
		t.Error("a pod reaches the node's loopback")
	}
	if _, err := ask(t, far, "[2001:db8::1]:8081"); err == nil {
		t.Error("a port of an IPv4 address answers on IPv6")
	}
	n.ok(call{command: "DEL", container: "server", netns: server})
	for _, address := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080", "192.0.2.1:8081"} {
		if _, err := ask(t, far, address); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("after DEL, to %s: %v, want refused", address, err)
		}
	}
}

func TestHostPortConflict(t *testing.T) {
	n := newNode(t)
	port := func(ip string) map[string]any {
		return mappings(map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip})
	}
	n.addPod("first", port("192.0.2.1"))
	n.addPod("second", port("192.0.2.9"))
	for _, ip := range []string{"192.0.2.1", "", "0.0.0.0"} {
		n.fails(call{command: "ADD", container: "third", netns: nstest.New(t), config: port(ip)}, codeHostPortUsed, "8080", "default/")
	}
	n.addPod("sixth", port("::"))
	n.ok(call{command: "DEL", container: "first"})
	n.addPod("third", port("192.0.2.1"))
	if n.used() != 3 {
		t.Errorf("%d addresses in use, want 3", n.used())
	}
}

// TestUDPHostPortMoves sends to a UDP host port from one socket without pause, while its Pod is
// replaced by another: the new one hears it, though the kernel tracks the flow to the old one.
func TestUDPHostPortMoves(t *testing.T) {
	n := newNode(t)
	far := n.outside()
	config := mappings(map[string]any{"hostPort": 5353, "containerPort": 53, "protocol": "udp"})
	for _, node := range []string{"192.0.2.1:5353", "[2001:db8::1]:5353"} {
		client := dialUDP(t, far, node)
		for _, name := range []string{"old", "new"} {
			ns, _ := n.addPod(name, config)
			answerUDP(t, ns, name)
			eventually(t, "the pod "+name+" answers at "+node, func() bool { return askUDP(client) == name })
			n.ok(call{command: "DEL", container: name, netns: ns})
		}
	}
}

func dialUDP(t *testing.T, ns *nstest.Namespace, address string) (client net.Conn) {
	t.Helper()
	var err error
	ns.Do(t, func() { client, err = net.Dial("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func askUDP(c net.Conn) string {
	b := make([]byte, 100)
	_, _ = c.Write([]byte("?"))
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	got, _ := c.Read(b)
	return string(b[:got])
}

func answerUDP(t *testing.T, ns *nstest.Namespace, text string) {
	t.Helper()
	ns.Do(t, func() {
		c, err := net.ListenPacket("udp", ":53")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = c.WriteTo([]byte(text), from)
				}
			}
		}()
	})
}

// TestBandwidth measures what a limited Pod gets, both ways and in both families.
func TestBandwidth(t *testing.T) {
	n := newNode(t)
	const mbit = 1_000_000
	limited, ips := n.addPod("limited", map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{
		"ingressRate": 40 * mbit, "ingressBurst": mbit, "egressRate": 20 * mbit, "egressBurst": mbit,
	}}})
	free, freeIPs := n.addPod("free", nil)
	for i := range ips {
		for _, c := range []struct {
			name     string
			from, to *nstest.Namespace
			address  netip.Addr
			want     float64
		}{{"ingress", free, limited, ips[i], 40 * mbit}, {"egress", limited, free, freeIPs[i], 20 * mbit}} {
			var got float64
			for try := 0; try < 3 && (got < 0.7*c.want || got > 1.15*c.want); try++ { // a busy machine may read late
				got = throughput(t, c.from, c.to, c.address, int(c.want/8)) // a second's worth
			}
			if got < 0.7*c.want || got > 1.15*c.want {
				t.Errorf("%s over %s: %.1f Mbit/s, want %.1f", c.name, c.address, got/mbit, c.want/mbit)
			}
		}
	}
	n.ok(call{command: "DEL", container: "limited", netns: limited})
	n.ns.Do(t, func() {
		if links, err := netlink.LinkList(); err != nil || len(links) != 2 { // lo and the free Pod's
			t.Errorf("links left: %v, %v", links, err)
		}
	})
}

// throughput sends so many bytes over TCP and returns the rate at which they came, in bits per second.
func throughput(t *testing.T, from, to *nstest.Namespace, address netip.Addr, bytes int) float64 {
	t.Helper()
	var l net.Listener
	var c net.Conn
	var err error
	to.Do(t, func() { l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from.Do(t, func() { c, err = net.Dial("tcp", l.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		_, _ = c.Write(make([]byte, bytes))
		_ = c.Close()
	}()
	skipped, err := io.CopyN(io.Discard, in, int64(bytes/4)) // the burst, and the start of TCP
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	rest, err := io.Copy(io.Discard, in)
	if err != nil || skipped+rest != int64(bytes) {
		t.Fatalf("got %d of %d bytes, %v", skipped+rest, bytes, err)
	}
	return float64(rest) * 8 / time.Since(begin).Seconds()
}

func TestMetrics(t *testing.T) {
	n := newNode(t)
	n.addPod("pod-a", nil)
	n.addPod("pod-b", nil)
	n.ok(call{command: "DEL", container: "pod-b"})
	n.fails(call{command: "ADD", container: "bad name", netns: nstest.New(t)}, 4)
	got := gather(t, n.server.Collector())
	for _, want := range []string{
		`weftnet_cni_attachments 1`,
		`weftnet_cni_requests_total{code="0",verb="ADD"} 2`, `weftnet_cni_requests_total{code="4",verb="ADD"} 1`,
		`weftnet_cni_requests_total{code="0",verb="DEL"} 1`, `weftnet_cni_request_duration_seconds_count{verb="ADD"} 3`,
		`weftnet_ipam_addresses{block="10.244.1.0/24",state="used"} 1`,
		`weftnet_ipam_addresses{block="10.244.1.0/24",state="cooling"} 1`,
		`weftnet_ipam_addresses{block="10.244.1.0/24",state="free"} 251`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func gather(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}
