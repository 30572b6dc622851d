//go:build netns

package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/poll"
)

// TestAConnectionFromBeforeTheRules: a process asks a Service before there are any rules, as on a node that has just booted. It
// is answered when it repeats its first packet, and need not give up first.
func TestAConnectionFromBeforeTheRules(t *testing.T) {
	for _, row := range []struct{ name, vip, server string }{{"IPv4", "10.96.0.1", "10.0.0.1"}, {"IPv6", "fd00::1", "fd01::1"}} {
		t.Run(row.name, func(t *testing.T) {
			m := newMachine(t)
			m.node.ServiceCIDRs = nil
			// Whoever masquerades has connection tracking note what is not translated as well.
			m.nft("table inet other { chain c { type nat hook postrouting priority srcnat; ip daddr 192.0.2.1 masquerade; }; chain o { type nat hook output priority -50; }; }")
			var server net.Listener
			var err error
			m.ns.Do(t, func() {
				for _, args := range [][]string{
					{"addr", "add", row.server + map[bool]string{true: "/128", false: "/32"}[row.name == "IPv6"], "dev", "lo", "nodad"},
					{"link", "add", "out", "arp", "off", "type", "veth", "peer", "lost"}, {"link", "set", "lost", "up"}, {"link", "set", "out", "up"},
					{"addr", "add", "192.0.2.9/24", "dev", "out"}, {"addr", "add", "fd02::9/64", "dev", "out", "nodad"},
					{"route", "add", row.vip, "dev", "out"},
				} {
					if out, fault := exec.Command("ip", args...).CombinedOutput(); fault != nil {
						err = errors.Join(err, fmt.Errorf("ip %v: %w: %s", args, fault, out))
					}
				}
				var fault error
				server, fault = net.Listen("tcp", net.JoinHostPort(row.server, "8080"))
				err = errors.Join(err, fault)
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Close() })
			connected := make(chan error, 1)
			go func() {
				defer close(connected) // also where Do fails the test
				m.ns.Do(t, func() {
					c, err := net.DialTimeout("tcp", net.JoinHostPort(row.vip, "80"), 30*time.Second)
					if err == nil {
						_ = c.Close()
					}
					connected <- err
				})
			}()
			poll.Until(t, patience, "the connection is begun", func() error {
				flows, err := m.flows.List(t.Context())
				if err != nil || len(flows) == 0 {
					return fmt.Errorf("%d flows: %w", len(flows), err)
				}
				return nil
			})
			m.cluster.put(1, state.ProtoTCP, row.server)
			m.cluster.sync()
			m.startOn(nil)
			if err := <-connected; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUDPClientFollows has a client that sends from one socket for ever, as statsd's do, while its
// Service gets endpoints, changes them, loses them, and the agent is restarted.
func TestUDPClientFollows(t *testing.T) {
	for _, row := range []struct{ name, vip, one, two string }{
		{"IPv4", "10.96.0.1", "10.0.0.1", "10.0.0.2"},
		{"IPv6", "fd00::1", "fd01::1", "fd01::2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := newMachine(t)
			m.node.ServiceCIDRs = nil
			c := m.udpWorld(row.vip, row.one, row.two)
			m.cluster.put(1, state.ProtoUDP)
			m.cluster.sync()
			m.startOn(nil)
			m.inForce("no endpoint")
			c.expect("no endpoint", "")
			m.cluster.put(1, state.ProtoUDP, row.one)
			c.expect("0 to 1", row.one)
			m.startOn(nil)
			m.inForce("after a restart")
			c.expect("restart", row.one)
			m.cluster.put(1, state.ProtoUDP, row.one, row.two)
			m.cluster.drain(1, row.one)
			m.inForce("one that ends, and another")
			for range 5 {
				c.expect("one that ends, and another", row.one)
			}
			m.cluster.put(1, state.ProtoUDP, row.two)
			c.expect("endpoint replaced", row.two)
			m.cluster.put(1, state.ProtoUDP)
			c.expect("1 to 0", "")
			m.cluster.put(1, state.ProtoUDP, row.one)
			c.expect("and back", row.one)
			m.stop()
			m.cluster.put(1, state.ProtoUDP, row.two)
			m.startOn(nil)
			c.expect("replaced while the agent was away", row.two)
		})
	}
}

type udpClient struct {
	t    *testing.T
	conn net.Conn
}

// udpWorld has two servers that answer with their own address, and a client of the Service.
func (m *machine) udpWorld(vip string, servers ...string) udpClient {
	m.t.Helper()
	c := udpClient{t: m.t}
	var err error
	m.ns.Do(m.t, func() {
		bits := "/32"
		if netip.MustParseAddr(vip).Is6() {
			bits = "/128"
		}
		run := func(args ...string) {
			out, fault := exec.Command("ip", args...).CombinedOutput()
			if fault != nil {
				err = errors.Join(err, fmt.Errorf("ip %v: %w: %s", args, fault, out))
			}
		}
		for _, s := range servers {
			run("addr", "add", s+bits, "dev", "lo", "nodad")
		}
		run("route", "add", vip+bits, "dev", "lo")
		for _, s := range servers {
			p, fault := net.ListenPacket("udp", net.JoinHostPort(s, "8080"))
			if err = errors.Join(err, fault); err != nil {
				return
			}
			m.t.Cleanup(func() { _ = p.Close() })
			go func() {
				b := make([]byte, 100)
				for {
					_, from, fault := p.ReadFrom(b)
					if fault != nil {
						return
					}
					_, _ = p.WriteTo([]byte(s), from)
				}
			}()
		}
		var fault error
		c.conn, fault = net.Dial("udp", net.JoinHostPort(vip, "80"))
		err = errors.Join(err, fault)
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// expect sends until the wanted server answers; "" is nobody.
func (c udpClient) expect(what, want string) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	got := ""
	for time.Now().Before(deadline) {
		b := make([]byte, 100)
		_ = c.conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := c.conn.Write([]byte("?"))
		n := 0
		if err == nil {
			n, err = c.conn.Read(b)
		}
		if got = string(b[:n]); err != nil {
			got = ""
		}
		if got == want {
			return
		}
	}
	c.t.Fatalf("%s: %q answers, want %q", what, got, want)
}
