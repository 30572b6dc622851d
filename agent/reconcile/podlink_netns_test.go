//go:build netns

package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// podsVariable has the host ends of the Pods that the agent shall know.
const podsVariable = "NODE_PODS"

// podsOfEnvironment are Pods that neither come nor go.
type podsOfEnvironment struct{ state PodState }

func (p podsOfEnvironment) Desired() PodState        { return p.state }
func (p podsOfEnvironment) Changed() <-chan struct{} { return nil }

func readPods() (podsOfEnvironment, error) {
	var p podsOfEnvironment
	text := os.Getenv(podsVariable)
	if text == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(text), &p.state.Links); err != nil {
		return p, fmt.Errorf("read the Pods: %w", err)
	}
	for _, e := range p.state.Links {
		p.state.Senders = append(p.state.Senders, filter.Pod{Link: e.Name, Addresses: e.Addresses})
		for _, a := range e.Addresses {
			p.state.Routes = append(p.state.Routes, state.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Dev: e.Name})
		}
	}
	return p, nil
}

// addPods wires n Pods to the machine, whose agent has not started, and answers in each.
func (m *machine) addPods(n int) []pod.HostEnd {
	m.t.Helper()
	var kernel *pod.Kernel
	var err error
	m.ns.Do(m.t, func() { kernel, err = pod.New(pod.Config{}) })
	m.must(err)
	m.t.Cleanup(func() { _ = kernel.Close() })
	var out []pod.HostEnd
	for i := range n {
		ns := nstest.New(m.t)
		e := pod.HostEnd{Name: state.PodLinkName(fmt.Sprint(i), "eth0"), MTU: 1440, Addresses: []netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", m.number, i+2)), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", m.number, i+2)),
		}}
		_, err := kernel.Attach(pod.Spec{HostLink: e.Name, IfName: "eth0", Netns: ns.Fd(), Addresses: e.Addresses, MTU: e.MTU})
		m.must(err)
		(&machine{t: m.t, ns: ns}).echo()
		out = append(out, e)
	}
	text, err := json.Marshal(out)
	m.must(err)
	m.env = append(m.env, podsVariable+"="+string(text))
	return out
}

// TestDriftOfAPodsLinkIsRepaired: the Pod is reached again, and the node is ready all the while, so
// that other Pods can come.
func TestDriftOfAPodsLinkIsRepaired(t *testing.T) {
	m := machines(t, 1)[0]
	pods := m.addPods(2)
	m.startAgent()
	m.tell(cluster(1, 1))
	m.until("readiness", func(s said) bool { return s.Ready })
	link := func() netlink.Link {
		l, err := m.nl.LinkByName(pods[0].Name)
		m.must(err)
		return l
	}
	before := m.podPicture(pods)
	if n := strings.Count(before, "permanent"); n != 4 || strings.Count(before, "mtu 1440 up") != 2 {
		t.Fatalf("%d neighbours, links:\n%s", n, before)
	}
	for _, row := range []struct {
		name  string
		spoil func() error
	}{
		{"down", func() error { return m.nl.LinkSetDown(link()) }},
		{"down and up", func() error { return errors.Join(m.nl.LinkSetDown(link()), m.nl.LinkSetUp(link())) }},
		{"MTU changed", func() error { return m.nl.LinkSetMTU(link(), 1300) }},
		{"down with another MTU", func() error { return errors.Join(m.nl.LinkSetDown(link()), m.nl.LinkSetMTU(link(), 1300)) }},
		{"routes deleted", func() error {
			return errors.Join(m.deleteRoutes(netlink.FAMILY_V4, state.TableMain, 9999), m.deleteRoutes(netlink.FAMILY_V6, state.TableMain, 9999))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			repaired(t, time.Second, row.spoil, func() error {
				if now := m.podPicture(pods); now != before {
					return fmt.Errorf("have\n%s\nwant\n%s", now, before)
				}
				return nil
			})
			for _, p := range pods {
				m.answers(t, p.Addresses)
			}
		})
	}
	if faults := m.faults(); len(faults) > 0 {
		t.Errorf("the node was unready: %v", faults)
	}
	if m.state().Drift[stageLink] == 0 {
		t.Error("no repair was counted")
	}
}

// answers sends to a Pod once per address: its first packet must arrive, and the Pod's first answer.
func (m *machine) answers(t *testing.T, addresses []netip.Addr) {
	t.Helper()
	for _, a := range addresses {
		var c *net.UDPConn
		var err error
		m.ns.Do(t, func() { c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, echoPort))) })
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = c.Write([]byte("hello"))
			if err == nil {
				_, err = c.Read(make([]byte, 64))
			}
			_ = c.Close()
		}
		if err != nil {
			t.Errorf("to %s: %v", a, err)
		}
	}
}

// podPicture is the Pods' links with their routes and neighbours, as text.
func (m *machine) podPicture(pods []pod.HostEnd) string {
	var lines []string
	for _, p := range pods {
		l, err := m.nl.LinkByName(p.Name)
		if err != nil {
			return err.Error()
		}
		state := "down"
		if l.Attrs().Flags&net.FlagUp != 0 {
			state = "up"
		}
		lines = append(lines, fmt.Sprintf("%s mtu %d %s alias %s", p.Name, l.Attrs().MTU, state, l.Attrs().Alias))
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err1 := m.nl.RouteList(l, family)
			neighbours, err2 := m.nl.NeighList(l.Attrs().Index, family)
			addresses, err3 := m.nl.AddrList(l, family)
			if err := errors.Join(err1, err2, err3); err != nil {
				return err.Error()
			}
			for _, r := range routes {
				lines = append(lines, fmt.Sprintf("%s route %v proto %v", p.Name, r.Dst, r.Protocol))
			}
			for _, n := range neighbours {
				if n.State&netlink.NUD_PERMANENT != 0 {
					lines = append(lines, fmt.Sprintf("%s neighbour %v %v permanent", p.Name, n.IP, n.HardwareAddr))
				}
			}
			for _, a := range addresses {
				lines = append(lines, fmt.Sprintf("%s address %v", p.Name, a.IPNet))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
