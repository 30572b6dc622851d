//go:build linux && netns

package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
)

const firstPort, ports, perPort = 1000, 100, 5

// allowPorts lets everybody send to the ports, TCP and UDP.
func allowPorts(first, last int32) snapshot.NetworkPolicyRule {
	return snapshot.NetworkPolicyRule{Ports: []snapshot.NetworkPolicyPort{
		{Protocol: "UDP", Number: first, EndPort: last}, {Protocol: "TCP", Number: first, EndPort: last},
	}}
}

// echo answers on all ports of both families and protocols.
func (l *lab) echo(p labPod) {
	l.Helper()
	for i := range ports {
		for _, a := range p.IPs {
			at := netip.AddrPortFrom(a, uint16(firstPort+i))
			udp := listen(l, p.ns, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
			l.Cleanup(func() { _ = udp.Close() })
			go func() {
				var b [64]byte
				for {
					n, from, err := udp.ReadFromUDPAddrPort(b[:])
					if err != nil {
						return
					}
					_, _ = udp.WriteToUDPAddrPort(b[:n], from)
				}
			}()
			tcp := listen(l, p.ns, func() (*net.TCPListener, error) { return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)) })
			l.Cleanup(func() { _ = tcp.Close() })
			go serveTCP(tcp)
		}
	}
}

func serveTCP(tcp *net.TCPListener) {
	for {
		c, err := tcp.Accept()
		if err != nil {
			return
		}
		go func() {
			var b [64]byte
			for {
				n, err := c.Read(b[:])
				if err != nil {
					_ = c.Close()
					return
				}
				_, _ = c.Write(b[:n])
			}
		}()
	}
}

// dial opens a flow from a Pod.
func (l *lab) dial(from labPod, network string, to netip.AddrPort) net.Conn {
	l.Helper()
	c := listen(l, from.ns, func() (net.Conn, error) { return net.DialTimeout(network, to.String(), 10*time.Second) })
	l.Cleanup(func() { _ = c.Close() })
	return c
}

// live is how long a flow that is allowed may take to answer on a busy machine, cut how long one that is not is
// listened to.
const live, cut = 10 * time.Second, 500 * time.Millisecond

// answers tells whether what is sent over a flow comes back. A datagram may be lost on a busy machine,
// so that three have to be.
func answers(c net.Conn, patience time.Duration) error {
	var err error
	for range 3 {
		if _, err = c.Write([]byte("hello")); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		var b [16]byte
		if _, err = c.Read(b[:]); err == nil || !errors.Is(err, syscall.ECONNREFUSED) && c.LocalAddr().Network() == "tcp" {
			return err
		}
	}
	return err
}

// TestRevocation: of 1,000 UDP flows and some of TCP a change forbids 10 and 2. Exactly those end, TCP
// with a reset, and go on when they are allowed again. While the agent is dead nothing ends; what
// was forbidden meanwhile ends when it is back.
func TestRevocation(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	l.cluster.setPods(server.Pod, client.Pod)
	policy := snapshot.NetworkPolicy{Namespace: "prod", Name: "ports", Types: []string{"Ingress"},
		Ingress: []snapshot.NetworkPolicyRule{allowPorts(firstPort, firstPort+ports-1)}}
	l.cluster.setPolicy(policy)
	l.cluster.setMissing()
	l.start()
	l.add(server)
	l.add(client)
	l.echo(server)
	udp, tcp := map[int][]net.Conn{}, map[int][]net.Conn{}
	for i := range ports {
		port := firstPort + i
		for _, a := range server.IPs {
			for range perPort {
				udp[port] = append(udp[port], l.dial(client, "udp", netip.AddrPortFrom(a, uint16(port))))
			}
			if i%10 == 7 {
				tcp[port] = append(tcp[port], l.dial(client, "tcp", netip.AddrPortFrom(a, uint16(port))))
			}
		}
	}
	alive := func(what string, dead int) {
		t.Helper()
		var work sync.WaitGroup
		for _, flows := range []map[int][]net.Conn{udp, tcp} {
			for port, list := range flows {
				work.Go(func() {
					patience := live
					if port == dead {
						patience = cut
					}
					for i, c := range list {
						if err := answers(c, patience); (err != nil) != (port == dead) {
							t.Errorf("%s: flow %d of %s to port %d: %v", what, i, c.LocalAddr().Network(), port, err)
						}
					}
				})
			}
		}
		work.Wait()
	}
	alive("at first", 0)
	const dead = firstPort + 17
	narrower := policy
	narrower.Ingress = []snapshot.NetworkPolicyRule{allowPorts(firstPort, dead-1), allowPorts(dead+1, firstPort+ports-1)}
	l.cluster.setPolicy(narrower)
	l.eventually("the flows to be cut", func() bool { return l.cuts() == 2*perPort+2 })
	for _, c := range tcp[dead] {
		if err := answers(c, live); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a TCP connection that is cut ends with %v", err)
		}
	}
	alive("after the change", dead)
	if n := l.cuts(); n != 2*perPort+2 {
		t.Errorf("%d flows were cut", n)
	}
	// Allowed again, the UDP flows go on; the TCP connections are gone.
	l.cluster.setPolicy(policy)
	delete(tcp, dead)
	l.eventually("the flows to be let go", func() bool {
		l.counts.mu.Lock()
		defer l.counts.mu.Unlock()
		return l.counts.letGo >= 2*perPort
	})
	alive("allowed again", 0)
	l.stop()
	l.cluster = l.newCluster()
	l.cluster.setPods(server.Pod, client.Pod)
	l.cluster.setPolicy(narrower)
	l.start()
	l.eventually("the new agent to wait", func() bool { r, ok := l.loop.Report(); return ok && r.Waiting != "" })
	alive("while the new agent knows little", 0)
	before := l.cuts()
	l.cluster.setMissing()
	l.eventually("what was forbidden meanwhile to end", func() bool { return l.cuts() >= before+2*perPort })
	alive("after the restart", dead)
}

func (l *lab) cuts() int {
	l.counts.mu.Lock()
	defer l.counts.mu.Unlock()
	return l.counts.cut
}

// reaches tells whether a new connection to a Pod is made, in both families.
func (l *lab) reaches(from, to labPod, port uint16) (bool, error) {
	made := 0
	for _, a := range to.IPs {
		var c net.Conn
		var err error
		from.ns.Do(l, func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, port).String(), 300*time.Millisecond) })
		if err == nil {
			made++
			_ = c.Close()
		}
	}
	if made == 1 {
		return false, fmt.Errorf("one family passes and the other does not")
	}
	return made == 2, nil
}

// TestFaults: a table that somebody deletes is back at once; the rules of an agent that was killed
// stand, and its successor goes on where it was.
func TestFaults(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	l.cluster.setPods(server.Pod, client.Pod)
	l.cluster.setPolicy(denyIn("prod"))
	l.cluster.setMissing()
	l.start()
	l.add(server)
	l.add(client)
	tcp := listen(l, server.ns, func() (*net.TCPListener, error) { return net.ListenTCP("tcp", &net.TCPAddr{Port: 80}) })
	t.Cleanup(func() { _ = tcp.Close() })
	go serveTCP(tcp)
	closed := func(what string) {
		t.Helper()
		if open, err := l.reaches(client, server, 80); open || err != nil {
			t.Errorf("%s: the Pod is open: %v", what, err)
		}
	}
	closed("at first")
	for i := range 3 {
		l.run(l.node, "nft delete table inet weftnet-policy")
		l.eventually("the table", func() bool { l.counts.mu.Lock(); defer l.counts.mu.Unlock(); return l.counts.drift == i+1 })
		closed("after the table was deleted")
	}
	l.nft(l.node, "flush chain inet weftnet-policy forward")
	l.eventually("the chain", func() bool { l.counts.mu.Lock(); defer l.counts.mu.Unlock(); return l.counts.drift == 4 })
	closed("after a chain was flushed")
	l.stop()
	closed("while the agent is dead")
	l.cluster = l.newCluster()
	l.start()
	closed("while the new agent knows nothing")
	l.cluster.setPods(server.Pod, client.Pod)
	l.cluster.setPolicy(denyIn("prod"))
	l.cluster.setMissing()
	l.eventually("readiness", func() bool { return l.loop.Ready() == nil })
	closed("when it knows all")
	l.cluster.deletePolicy(denyIn("prod"))
	l.eventually("the Pod to be open", func() bool { open, _ := l.reaches(client, server, 80); return open })
}
