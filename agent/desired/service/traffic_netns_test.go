//go:build netns

package service_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
)

// both is web over TCP and UDP.
func both(change ...func(*object)) object {
	o := web(change...)
	p := o.Ports[0]
	p.Name, p.Protocol = "udp", state.ProtoUDP
	o.Ports = append(o.Ports, p)
	for i := range o.slices {
		o.slices[i].Ports = append(o.slices[i].Ports, slice("", []string{"udp/udp/8080"}).Ports...)
	}
	return o
}

// asks connects until every answer of the list has come, over both protocols; any other is a fault.
func (l *lab) asks(ns string, family int, to pair, at uint16, answers ...string) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		met := map[string]bool{}
		for range 60 {
			got, err := l.ask(ns, network, port(to[family], at), patience)
			if err != nil || !slices.Contains(answers, got) {
				l.t.Errorf("%s to %s:%d over %s: %q, %v; want one of %q", ns, to[family], at, network, got, err, answers)
				return
			}
			if met[got] = true; len(met) == len(answers) {
				break
			}
		}
		if len(met) != len(answers) {
			l.t.Errorf("%s to %s:%d over %s: only %v of %q", ns, to[family], at, network, met, answers)
		}
	}
}

// refused wants an answer that says no, dropped wants none.
func (l *lab) refused(ns string, family int, to pair, at uint16) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		got, err := l.ask(ns, network, port(to[family], at), patience)
		if !errors.Is(err, syscall.ECONNREFUSED) && !notPermitted(ns, network, err) {
			l.t.Errorf("%s to %s:%d over %s: %q, %v; want a refusal", ns, to[family], at, network, got, err)
		}
	}
}

// notPermitted is what the kernel says to a process of the node itself whose datagram its rules stop,
// whatever the rule.
func notPermitted(ns, network string, err error) bool {
	return ns == "node" && network == "udp" && errors.Is(err, syscall.EPERM)
}

func (l *lab) dropped(ns string, family int, to pair, at uint16) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		var timeout net.Error
		got, err := l.ask(ns, network, port(to[family], at), impatience)
		if (!errors.As(err, &timeout) || !timeout.Timeout()) && !notPermitted(ns, network, err) {
			l.t.Errorf("%s to %s:%d over %s: %q, %v; want silence", ns, to[family], at, network, got, err)
		}
	}
}

// TestTraffic sends real connections through the table in a kernel.
func TestTraffic(t *testing.T) {
	l := newLab(t)
	for name, steps := range map[string]func(family int){
		"cluster IP": func(i int) {
			l.apply(both())
			l.asks("other", i, clusterIP, 80, "local saw "+otherPod[i], "remote saw "+otherPod[i])
			l.asks("node", i, clusterIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.asks("outside", i, clusterIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.asks("remote", i, clusterIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.refused("other", i, clusterIP, 81)
			l.refused("node", i, clusterIP, 81)
			l.dropped("other", i, pair{"10.96.7.7", "fd00:96::77"}, 80)
			l.dropped("node", i, pair{"10.96.7.7", "fd00:96::77"}, 80)
		},
		"hairpin": func(i int) {
			l.apply(both(endpoints(at("10.244.1.5", "node1"))))
			l.asks("local", i, clusterIP, 80, "local saw "+meshAddr[i])
			l.asks("other", i, clusterIP, 80, "local saw "+otherPod[i])
		},
		"node port": func(i int) {
			l.apply(both(nodePort))
			l.asks("outside", i, nodeAddr, 30080, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.asks("other", i, nodeAddr, 30080, "local saw "+otherPod[i], "remote saw "+otherPod[i])
			l.asks("node", i, nodeAddr, 30080, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
		},
		"external policy Local": func(i int) {
			l.apply(both(nodePort, loadBalancer, externalLocal))
			l.asks("outside", i, nodeAddr, 30080, "local saw "+outsider[i])
			l.asks("outside", i, lbIP, 80, "local saw "+outsider[i])
			l.asks("other", i, lbIP, 80, "local saw "+otherPod[i], "remote saw "+otherPod[i])
			l.asks("node", i, lbIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			_, source, _ := strings.Cut(l.run("remote", "ip -o route get "+nodeAddr[i]), " src ")
			l.asks("remote", i, nodeAddr, 30080, "local saw "+strings.Fields(source)[0])
		},
		"no local endpoint": func(i int) {
			l.apply(both(nodePort, loadBalancer, externalLocal, internalLocal, remoteOnly()))
			l.dropped("outside", i, nodeAddr, 30080)
			l.dropped("outside", i, lbIP, 80)
			l.dropped("remote", i, nodeAddr, 30080)
			l.dropped("other", i, clusterIP, 80)
			l.asks("other", i, lbIP, 80, "remote saw "+otherPod[i])
			l.asks("node", i, nodeAddr, 30080, "remote saw "+meshAddr[i])
		},
		"no endpoint": func(i int) {
			l.apply(both(nodePort, loadBalancer, externalIPs, endpoints()))
			for _, client := range []string{"other", "node", "outside"} {
				l.refused(client, i, clusterIP, 80)
				l.refused(client, i, nodeAddr, 30080)
				l.refused(client, i, lbIP, 80)
				l.refused(client, i, extIP, 80)
			}
		},
		"source ranges": func(i int) {
			l.apply(both(nodePort, loadBalancer, ranges("203.0.113.0/24", "2001:db8:9::/48", "10.200.0.0/16", "fd00:c8::/64")))
			l.asks("outside", i, lbIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.asks("node", i, lbIP, 80, "local saw "+meshAddr[i], "remote saw "+meshAddr[i])
			l.dropped("other", i, lbIP, 80)
			l.asks("other", i, nodeAddr, 30080, "local saw "+otherPod[i], "remote saw "+otherPod[i])
		},
		"many endpoints": func(i int) {
			var all []string
			o := both(nodePort)
			for n := range o.slices {
				o.slices[n].Endpoints = nil
			}
			for host := range 40 {
				a := []string{"10.244.1.", "fd00:10:244:1::"}[i] + fmt.Sprint(100+host)
				o.slices[i].Endpoints = append(o.slices[i].Endpoints, at(a, "node1"))
				all = append(all, a)
			}
			l.apply(o)
			l.every(i, all)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l.t = t
			for family := range 2 {
				steps(family)
			}
		})
	}
}

// every gives the Pod many addresses, and wants each of them to be met.
func (l *lab) every(family int, all []string) {
	l.t.Helper()
	for _, a := range all {
		l.run("node", "ip route replace "+a+" dev weftp-5")
		l.run("node", "ip neigh replace "+a+" lladdr "+l.mac("local", "eth0")+" dev weftp-5 nud permanent")
		l.run("local", "ip addr replace "+a+[]string{"/32", "/128"}[family]+" dev eth0"+[]string{"", " nodad"}[family])
		defer l.run("local", "ip addr del "+a+[]string{"/32", "/128"}[family]+" dev eth0")
	}
	met := map[netip.Addr]bool{}
	for range 1000 {
		if got, err := l.ask("other", "tcp", port(clusterIP[family], 80), patience); err != nil || got != "local saw "+otherPod[family] {
			l.t.Fatalf("%q, %v", got, err)
		}
		if len(met) == 0 || len(met) < len(all) {
			l.meet(met, all)
		}
		if len(met) == len(all) {
			return
		}
	}
	l.t.Errorf("1000 connections met %d endpoints of %d", len(met), len(all))
}

// meet reads from connection tracking who has answered.
func (l *lab) meet(met map[netip.Addr]bool, all []string) {
	l.t.Helper()
	for _, f := range l.flows() {
		if f.Reply.Src.Port() == 8080 && slices.Contains(all, f.Reply.Src.Addr().String()) {
			met[f.Reply.Src.Addr()] = true
		}
	}
}

// affineFor is how long a client stays with its endpoint.
const affineFor = time.Second

// stays requires that a client is with one endpoint, 15 times in a row, and with this one if it is named, that it
// was with last. Where the machine kept the client from asking until its time was over, it begins anew.
func (l *lab) stays(client, network string, to netip.AddrPort, with string, last time.Time) string {
	l.t.Helper()
	for i := 0; i < 15; i++ {
		before := last
		last = time.Now()
		got := l.who(client, network, to)
		switch {
		case with == "" || got == with:
		case time.Since(before) < affineFor:
			l.t.Fatalf("%s over %s: with %s, and had been with %s", client, network, got, with)
		default:
			i = 0
		}
		with = got
	}
	return with
}

// TestAffinityInTheKernel: a client stays, until its time is over or its endpoint is gone.
func TestAffinityInTheKernel(t *testing.T) {
	l := newLab(t)
	for i := range 2 {
		for _, network := range []string{"tcp", "udp"} {
			o := both(affinity(affineFor), nodePort)
			l.apply(o)
			for client, to := range map[string]netip.AddrPort{"other": port(clusterIP[i], 80), "outside": port(nodeAddr[i], 30080)} {
				first := l.stays(client, network, to, "", time.Now())
				gone, rest := "10.244.1.5", at("10.244.2.5", "node2")
				if first == "remote" {
					gone, rest = "10.244.2.5", at("10.244.1.5", "node1")
				}
				l.apply(both(affinity(affineFor), nodePort, endpoints(rest)))
				asked := time.Now()
				second := l.who(client, network, to)
				if second == first {
					t.Fatalf("%s is with %s, which is gone (%s)", client, second, gone)
				}
				l.apply(o)
				l.moves(client, network, to, l.stays(client, network, to, second, asked))
			}
		}
	}
}

// moves waits until a client, having been silent for longer than its affinity lasts, comes to another
// endpoint.
func (l *lab) moves(client, network string, to netip.AddrPort, from string) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		l.silent(client)
		if l.who(client, network, to) != from {
			return
		}
	}
	l.t.Fatalf("%s is with %s for ever", client, from)
}

// silent waits until the kernel has forgotten all clients.
func (l *lab) silent(client string) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if !strings.Contains(l.run("node", "nft list map inet weftnet-service affinity4")+l.run("node", "nft list map inet weftnet-service affinity6"), "elements") {
			return
		}
	}
	l.t.Fatalf("%s is never forgotten", client)
}

func (l *lab) who(client, network string, to netip.AddrPort) string {
	l.t.Helper()
	got, err := l.ask(client, network, to, patience)
	if err != nil {
		l.t.Fatalf("%s to %s over %s: %v", client, to, network, err)
	}
	who, _, _ := strings.Cut(got, " ")
	return who
}

// TestInvalidInTheKernel sends TCP packets with a wrong checksum, of which connection tracking can make
// nothing: those of an endpoint are dropped and counted, those of others are not.
func TestInvalidInTheKernel(t *testing.T) {
	l := newLab(t)
	l.apply(both())
	k := l.table(state.ServiceTableName)
	for i, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
		for sender, counts := range map[string]uint64{"local": 1, "other": 0} {
			before := l.invalid(k)
			to := map[string]string{"local": otherPod[i], "other": localPod[i]}[sender]
			l.raw(sender, family, addr(to))
			// What is sent behind it comes behind it.
			if _, err := l.ask(sender, "tcp", port(to, 9), patience); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %v", sender, err)
			}
			if n := l.invalid(k) - before; n != counts {
				t.Errorf("of %s %d packets were counted, want %d", sender, n, counts)
			}
		}
	}
}

func (l *lab) invalid(k *nft.Kernel) uint64 {
	l.t.Helper()
	counters, err := k.Counters(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return counters[service.CounterInvalid].Packets
}

// raw sends a TCP header without a checksum.
func (l *lab) raw(ns string, family int, to netip.Addr) {
	l.t.Helper()
	var sockaddr syscall.Sockaddr
	if to.Is4() {
		sockaddr = &syscall.SockaddrInet4{Addr: to.As4()}
	} else {
		sockaddr = &syscall.SockaddrInet6{Addr: to.As16()}
	}
	header := make([]byte, 20)
	header[1], header[3], header[12], header[13] = 80, 90, 5<<4, 0x10 // ACK
	var err error
	l.ns[ns].Do(l.t, func() {
		var fd int
		if fd, err = syscall.Socket(family, syscall.SOCK_RAW, syscall.IPPROTO_TCP); err != nil {
			return
		}
		err = errors.Join(syscall.Sendto(fd, header, 0, sockaddr), syscall.Close(fd))
	})
	if err != nil {
		l.t.Fatal(err)
	}
}
