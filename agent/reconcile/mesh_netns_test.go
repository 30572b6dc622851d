//go:build netns

package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

const echoPort = 7000

// echo answers datagrams at every address of the node until the test ends.
func (m *machine) echo() {
	m.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		var c *net.UDPConn
		var err error
		m.ns.Do(m.t, func() { c, err = net.ListenUDP(network, &net.UDPAddr{Port: echoPort}) })
		m.must(err)
		m.t.Cleanup(func() { _ = c.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
}

func (m *machine) meshIP(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::1", m.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.1", m.number))
}

func (m *machine) dial(to *machine, v6 bool) (*net.UDPConn, error) {
	var c *net.UDPConn
	var err error
	m.ns.Do(m.t, func() {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.meshIP(v6), echoPort)))
	})
	return c, err
}

// reach waits until datagrams come back from the other's mesh addresses, and checks that they are
// sent from this node's.
func (m *machine) reach(to *machine, within time.Duration) time.Duration {
	m.t.Helper()
	var longest time.Duration
	for _, v6 := range []bool{false, true} {
		took := eventually(m.t, within, fmt.Sprintf("node%d to node%d, IPv6 %v", m.number, to.number, v6), func() error {
			c, err := m.dial(to, v6)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); from != m.meshIP(v6) {
				return fmt.Errorf("sent from %v, want %v", from, m.meshIP(v6))
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = c.Read(make([]byte, 64))
			return err
		})
		longest = max(longest, took)
	}
	return longest
}

// mesh brings up n nodes that know each other.
func upMesh(t *testing.T, n int) []*machine {
	t.Helper()
	nodes := machines(t, n)
	var all []int
	for i := range nodes {
		all = append(all, i+1)
	}
	for _, m := range nodes {
		m.startAgent()
		m.tell(cluster(m.number, all...))
		m.echo()
	}
	for _, m := range nodes {
		m.until("readiness", func(s said) bool { return s.Ready })
	}
	return nodes
}

func TestThreeNodesFormAMesh(t *testing.T) {
	nodes := machines(t, 3)
	for _, m := range nodes {
		m.startAgent()
		m.echo()
	}
	started := time.Now()
	for _, m := range nodes {
		m.tell(cluster(m.number, 1, 2, 3))
	}
	for _, m := range nodes {
		m.until("readiness", func(s said) bool { return s.Ready && s.MTU == 1440 })
	}
	t.Logf("in force after %v", time.Since(started).Round(time.Millisecond))
	for _, m := range nodes { // nobody sends anything yet: the agents' probes make the handshakes
		m.until("handshakes with all", func(s said) bool { return s.Connected == 2 })
	}
	t.Logf("proven after %v", time.Since(started).Round(time.Millisecond))
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.reach(b, 5*time.Second)
			}
		}
	}
	for _, m := range nodes {
		for stage, n := range m.state().Drift {
			if n != 0 {
				t.Errorf("node%d repaired %d drifts of %s where there were none", m.number, n, stage)
			}
		}
	}
	// An address of the pool that nobody has is refused, not sent to the default route.
	var c net.Conn
	var err error
	nodes[0].ns.Do(t, func() { c, err = net.Dial("udp", "10.244.99.1:1") })
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("an unknown Pod address: %v", err)
	}
}

func TestDriftIsRepairedWithinASecond(t *testing.T) {
	nodes := upMesh(t, 2)
	m, other := nodes[0], nodes[1]
	m.reach(other, 10*time.Second)
	weft0 := func() netlink.Link {
		l, err := m.nl.LinkByName("weft0")
		m.must(err)
		return l
	}
	before := m.picture()
	for _, part := range []string{"10.244.2.0/24 weft0 src 10.244.1.1", "rule 8700 10.244.1.0/24 87", "weft0 type tun mtu 1440 up", "failclosed-out", "peer "} {
		if !strings.Contains(before, part) {
			t.Fatalf("the picture lacks %q:\n%s", part, before)
		}
	}
	rows := []struct {
		name  string
		spoil func() error
	}{
		{"IPv4 route deleted", func() error { return m.deleteRoutes(netlink.FAMILY_V4, state.TableMain, 9999) }},
		{"IPv6 route deleted", func() error { return m.deleteRoutes(netlink.FAMILY_V6, state.TableMain, 9999) }},
		{"unreachable deleted", func() error { return m.deleteRoutes(netlink.FAMILY_V4, state.TableMain, 0) }},
		{"table 87 emptied", func() error {
			return errors.Join(m.deleteRoutes(netlink.FAMILY_V4, state.TableWeft, 0), m.deleteRoutes(netlink.FAMILY_V6, state.TableWeft, 0))
		}},
		{"route through another link", func() error { return m.stealRoute() }},
		{"rules deleted", func() error { return m.deleteRules() }},
		{"addresses deleted", func() error { return m.deleteAddresses(weft0()) }},
		{"address added", func() error {
			a, err := netlink.ParseAddr("10.9.9.9/32")
			return errors.Join(err, m.nl.AddrAdd(weft0(), a))
		}},
		{"link down", func() error { return m.nl.LinkSetDown(weft0()) }},
		{"MTU changed", func() error { return m.nl.LinkSetMTU(weft0(), 1300) }},
		{"alias changed", func() error { return m.nl.LinkSetAlias(weft0(), "mine") }},
		{"nftables table deleted", func() error { return m.nft("delete table inet weftnet") }},
		{"nftables chain flushed", func() error { return m.nft("flush chain inet weftnet failclosed-out") }},
		{"peer deleted", func() error { return m.editPeers(func(d *state.Device) { d.Peers = nil }) }},
		{"allowed IPs changed", func() error {
			return m.editPeers(func(d *state.Device) { d.Peers[0].AllowedIPs = d.Peers[0].AllowedIPs[:1] })
		}},
		{"foreign peer with our allowed IPs", func() error {
			return m.editPeers(func(d *state.Device) {
				d.Peers = append(d.Peers, state.Peer{PublicKey: privateKey(99).Public(), AllowedIPs: d.Peers[0].AllowedIPs})
				d.Peers[0].AllowedIPs = nil
			})
		}},
		{"listen port changed", func() error { return m.editPeers(func(d *state.Device) { d.ListenPort = 4444 }) }},
		{"link deleted", func() error { return m.nl.LinkDel(weft0()) }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if err := row.spoil(); err != nil {
				t.Fatal(err)
			}
			took := eventually(t, 5*time.Second, row.name, func() error {
				if now := m.picture(); now != before {
					return fmt.Errorf("have\n%s\nwant\n%s", now, before)
				}
				return nil
			})
			limit := time.Second
			if row.name == "link deleted" {
				limit = 2 * time.Second // the wireguard process makes a new one first
			}
			if took > limit {
				t.Errorf("it took %v", took)
			}
			t.Logf("back after %v", took.Round(time.Millisecond))
		})
	}
	m.reach(other, 20*time.Second)
}

// picture is everything of ours on the node, as text.
func (m *machine) picture() string {
	var b strings.Builder
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := m.nl.RouteListFiltered(family, &netlink.Route{Protocol: state.RouteProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		fmt.Fprintln(&b, "routes", family, err)
		var lines []string
		for _, r := range routes {
			name := ""
			if l, err := m.nl.LinkByIndex(r.LinkIndex); err == nil {
				name = l.Attrs().Name
			}
			lines = append(lines, fmt.Sprintf(" %v %s src %v table %d metric %d type %d", r.Dst, name, r.Src, r.Table, r.Priority, r.Type))
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, "\n") + "\n")
		rules, err := m.nl.RuleList(family)
		for _, r := range rules {
			if r.Priority >= 8700 && r.Priority <= 8799 {
				fmt.Fprintln(&b, " rule", r.Priority, r.Src, r.Table, err)
			}
		}
	}
	m.ns.Do(m.t, func() {
		k, err := OpenKernel("/proc/sys/net")
		if err != nil {
			fmt.Fprintln(&b, err)
			return
		}
		defer func() { _ = k.Close() }()
		links, err := k.link.Observe(m.t.Context())
		fmt.Fprintln(&b, links, err)
		table, err := k.nft.Observe(m.t.Context())
		fmt.Fprintln(&b, len(table.Chains), len(table.Sets), err)
		for _, c := range table.Chains {
			fmt.Fprintf(&b, " %+v\n", c)
		}
	})
	device, err := m.device()
	for i := range device.Peers {
		device.Peers[i].Endpoint = netip.AddrPort{} // roams
	}
	fmt.Fprintln(&b, device, err)
	return b.String()
}

func (m *machine) deleteRoutes(family int, table uint32, exceptMetric int) error {
	routes, err := m.nl.RouteListFiltered(family, &netlink.Route{Protocol: state.RouteProtocol, Table: int(table)}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	errs := []error{err}
	for i := range routes {
		if exceptMetric == 0 || routes[i].Priority != exceptMetric {
			errs = append(errs, m.nl.RouteDel(&routes[i]))
		}
	}
	if len(routes) == 0 {
		errs = append(errs, errors.New("there is no route to delete"))
	}
	return errors.Join(errs...)
}

// stealRoute points the route to the other node's Pods at the underlay, as a careless tool would.
func (m *machine) stealRoute() error {
	eth0, err := m.nl.LinkByName("eth0")
	_, dst, _ := net.ParseCIDR("10.244.2.0/24")
	return errors.Join(err, m.nl.RouteReplace(&netlink.Route{Dst: dst, LinkIndex: eth0.Attrs().Index, Protocol: state.RouteProtocol}))
}

func (m *machine) deleteRules() error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := m.nl.RuleList(family)
		errs = append(errs, err)
		for i := range rules {
			if rules[i].Priority == 8700 {
				errs = append(errs, m.nl.RuleDel(&rules[i]))
			}
		}
	}
	return errors.Join(errs...)
}

func (m *machine) deleteAddresses(l netlink.Link) error {
	addrs, err := m.nl.AddrList(l, netlink.FAMILY_ALL)
	errs := []error{err}
	for i := range addrs {
		errs = append(errs, m.nl.AddrDel(l, &addrs[i]))
	}
	return errors.Join(errs...)
}

func (m *machine) nft(command string) error {
	var err error
	m.ns.Do(m.t, func() { err = runNFT(command) })
	return err
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	m := upMesh(t, 1)[0]
	eth0, err := m.nl.LinkByName("eth0")
	m.must(err)
	_, dst, _ := net.ParseCIDR("198.51.100.0/24")
	_, dst6, _ := net.ParseCIDR("2001:db8:99::/64")
	_, from, _ := net.ParseCIDR("203.0.113.0/24")
	rule := netlink.NewRule()
	rule.Priority, rule.Src, rule.Table = 5000, from, 100
	m.must(
		m.nl.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: eth0.Attrs().Index, Protocol: 4}),
		m.nl.RouteAdd(&netlink.Route{Dst: dst6, LinkIndex: eth0.Attrs().Index, Protocol: 4}),
		m.nl.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: eth0.Attrs().Index, Protocol: 4, Table: 87}),
		m.nl.RuleAdd(rule),
		m.nft("table inet other {\nchain c {\ntype filter hook forward priority 0\n}\n}"),
		m.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}),
	)
	m.tell(cluster(1, 1, 2)) // a change of everything
	m.until("the new peer", func(s said) bool { return s.Ready })
	eventually(t, 5*time.Second, "the new peer", func() error {
		if d, err := m.device(); err != nil || len(d.Peers) != 1 {
			return fmt.Errorf("%d peers, %w", len(d.Peers), err)
		}
		return nil
	})
	m.must(m.deleteRoutes(netlink.FAMILY_V4, state.TableMain, 9999)) // makes the agent look at all routes
	eventually(t, 5*time.Second, "the deleted route", func() error {
		routes, err := m.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: mustCIDR("10.244.2.0/24")}, netlink.RT_FILTER_DST)
		if err == nil && len(routes) == 0 {
			err = errors.New("missing")
		}
		return err
	})
	for _, check := range []struct {
		what string
		n    int
		err  error
	}{
		m.count("IPv4 routes", netlink.FAMILY_V4, &netlink.Route{Dst: dst, Table: 254}),
		m.count("IPv6 routes", netlink.FAMILY_V6, &netlink.Route{Dst: dst6, Table: 254}),
		m.count("routes in table 87", netlink.FAMILY_V4, &netlink.Route{Dst: dst, Table: 87}),
	} {
		if check.n != 1 || check.err != nil {
			t.Errorf("foreign %s: %d left, %v", check.what, check.n, check.err)
		}
	}
	rules, err := m.nl.RuleList(netlink.FAMILY_V4)
	if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == 5000 }) {
		t.Errorf("the foreign rule is gone: %v", err)
	}
	if err := m.nft("list table inet other"); err != nil {
		t.Errorf("the foreign table is gone: %v", err)
	}
	if _, err := m.nl.LinkByName("cni0"); err != nil {
		t.Error(err)
	}
}

func (m *machine) count(what string, family int, filter *netlink.Route) struct {
	what string
	n    int
	err  error
} {
	routes, err := m.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	return struct {
		what string
		n    int
		err  error
	}{what, len(routes), err}
}

func mustCIDR(text string) *net.IPNet {
	_, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return n
}

func TestANodeChangesItsAddress(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 10*time.Second)
	b.address(b.nl.AddrDel, "192.0.2.2/24")
	b.address(b.nl.AddrAdd, "192.0.2.22/24")
	// Nobody has told node1: node2 sends from its new address, and WireGuard follows.
	took := a.reach(b, 15*time.Second)
	t.Logf("reached again after %v", took.Round(time.Millisecond))
	moved := cluster(1, 1, 2)
	moved.Nodes[1].Endpoints = []string{"192.0.2.22", "2001:db8::2"}
	moved.Nodes[1].NodeIPs = []string{"192.0.2.22", "2001:db8::2"}
	a.tell(moved)
	eventually(t, 5*time.Second, "the new endpoint", func() error {
		d, err := a.device()
		if err != nil || d.Peers[0].Endpoint != netip.MustParseAddrPort("192.0.2.22:51820") {
			return fmt.Errorf("%v %w", d.Peers, err)
		}
		return nil
	})
	eventually(t, 5*time.Second, "the new node address in table 87", func() error {
		if c := a.count("", netlink.FAMILY_V4, &netlink.Route{Dst: mustCIDR("192.0.2.22/32"), Table: 87}); c.n != 1 {
			return fmt.Errorf("%d routes, %w", c.n, c.err)
		}
		return nil
	})
	a.reach(b, 5*time.Second)
}

func TestNodesComeAndGo(t *testing.T) {
	nodes := upMesh(t, 3)
	a := nodes[0]
	a.reach(nodes[1], 10*time.Second)
	a.reach(nodes[2], 10*time.Second)
	partial := cluster(1, 1, 2)
	partial.Partial = true
	a.tell(partial) // proves nothing
	a.reach(nodes[2], 2*time.Second)
	a.tell(cluster(1, 1, 2))
	eventually(t, 5*time.Second, "the peer is gone", func() error {
		d, err := a.device()
		if err != nil || len(d.Peers) != 1 {
			return fmt.Errorf("%d peers, %w", len(d.Peers), err)
		}
		if c := a.count("", netlink.FAMILY_V4, &netlink.Route{Dst: mustCIDR("10.244.3.0/24"), Table: 254}); c.n != 0 {
			return fmt.Errorf("%d routes, %w", c.n, c.err)
		}
		return nil
	})
	a.reach(nodes[1], 2*time.Second)
	a.tell(cluster(1, 1, 2, 3))
	a.reach(nodes[2], 10*time.Second)
}

// A node boots while the API server is away: everything in /run and in the kernel is gone.
func TestBootFromTheCacheWithoutTheAPIServer(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 10*time.Second)
	path := t.TempDir() + "/peers.json"
	if err := (cache.Cache{Path: path, Self: "node2"}).Save(cluster(2, 1, 2)); err != nil {
		t.Fatal(err)
	}
	b.killAgent()
	_ = b.tunnel.Process.Kill()
	_ = b.tunnel.Wait()
	weft0, err := b.nl.LinkByName("weft0")
	b.must(err, b.nl.LinkDel(weft0), b.nft("flush ruleset"), b.deleteRules(), os.RemoveAll(b.run+"/weftnet"), os.RemoveAll(b.run+"/wireguard"))
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		b.must(b.deleteRoutes(family, state.TableMain, 0))
	}
	b.startTunnel(tunnelBinary(t))
	b.startAgent("NODE_CACHE=" + path)
	b.until("readiness", func(s said) bool { return s.Ready })
	took := b.reach(a, 20*time.Second)
	t.Logf("back in the mesh after %v", took.Round(time.Millisecond))
	a.reach(b, 5*time.Second)
}

// The agent is killed and started again under traffic, without losing a packet.
func TestAgentRestartLosesNothing(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 10*time.Second)
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", v6), func(t *testing.T) {
			train := a.train(t, b, v6)
			train.pass(t, 300)
			for range 2 {
				a.killAgent()
				train.pass(t, 500)
				a.startAgent()
				train.pass(t, 200) // knows nothing yet
				partial := cluster(1, 1)
				partial.Partial = true
				a.tell(partial) // not even its peer
				a.until("readiness", func(s said) bool { return s.Ready })
				train.pass(t, 200)
				a.tell(cluster(1, 1, 2))
				train.pass(t, 500)
			}
			train.stop(t)
		})
	}
	if n := a.state().Drift[stagePeers]; n != 0 {
		t.Errorf("%d repairs of peers", n)
	}
}

// train is a datagram each millisecond, each answered.
type train struct {
	conn     *net.UDPConn
	sent     atomic.Int64
	answered atomic.Int64
	done     chan struct{}
	ended    chan struct{}
}

func (m *machine) train(t *testing.T, to *machine, v6 bool) *train {
	t.Helper()
	c, err := m.dial(to, v6)
	if err != nil {
		t.Fatal(err)
	}
	tr := &train{conn: c, done: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(tr.ended)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tr.done:
				return
			case <-tick.C:
				if _, err := c.Write([]byte{1}); err == nil {
					tr.sent.Add(1)
				}
			}
		}
	}()
	go func() {
		buf := make([]byte, 16)
		for {
			if _, err := c.Read(buf); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				tr.answered.Add(1)
			}
		}
	}()
	return tr
}

// pass waits until n more datagrams have been answered.
func (tr *train) pass(t *testing.T, n int64) {
	t.Helper()
	target := tr.answered.Load() + n
	eventually(t, 10*time.Second, "the train", func() error {
		if now := tr.answered.Load(); now < target {
			return fmt.Errorf("%d of %d answered", now, target)
		}
		return nil
	})
}

func (tr *train) stop(t *testing.T) {
	t.Helper()
	close(tr.done)
	<-tr.ended
	sent := tr.sent.Load()
	eventually(t, 2*time.Second, "the last answers", func() error {
		if got := tr.answered.Load(); got != sent {
			return fmt.Errorf("%d sent and %d answered", sent, got)
		}
		return nil
	})
	t.Logf("%d datagrams, none lost", sent)
	_ = tr.conn.Close()
}

func largeCluster(self, n int) snapshot.Snapshot {
	s := cluster(self)
	for i := 1; i <= n; i++ {
		node := meshNode(i)
		node.PodCIDRs = []string{fmt.Sprintf("10.244.%d.%d/26", i/4, i%4*64), fmt.Sprintf("fd00:10:244:%x::/64", i)}
		node.MeshIPs = []string{fmt.Sprintf("10.244.%d.%d", i/4, i%4*64+1), fmt.Sprintf("fd00:10:244:%x::1", i)}
		node.NodeIPs = []string{fmt.Sprintf("198.18.%d.%d", i/250, i%250+1), fmt.Sprintf("2001:db8:1::%x", i)}
		node.Endpoints = node.NodeIPs
		node.PublicKey = state.NewPrivateKey([32]byte{8, byte(i), byte(i >> 8), 1}).Public().String()
		s.Nodes = append(s.Nodes, node)
	}
	return s.Sorted()
}

// What 500 peers cost, and that they come up at all.
func TestFiveHundredPeers(t *testing.T) {
	m := machines(t, 1)[0]
	m.startAgent()
	started := time.Now()
	m.tell(largeCluster(1, 500))
	m.until("readiness", func(s said) bool { return s.Ready })
	t.Logf("in force after %v", time.Since(started).Round(time.Millisecond))
	d, err := m.device()
	if err != nil || len(d.Peers) != 499 {
		t.Fatalf("%d peers, %v", len(d.Peers), err)
	}
	before, at := m.cpu(), time.Now()
	eventually(t, 30*time.Second, "some seconds of idling", func() error {
		if time.Since(at) < 8*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	share := float64(m.cpu()-before) / float64(time.Since(at))
	t.Logf("idle CPU of the agent: %.1f %% of a core; memory: %s", 100*share, m.memory())
	if share > 0.10 {
		t.Errorf("the agent takes %.0f %% of a core while nothing happens", 100*share)
	}
	repaired := time.Now()
	if err := m.editPeers(func(d *state.Device) { d.Peers = d.Peers[:100] }); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the peers", func() error {
		if d, err := m.device(); err != nil || len(d.Peers) != 499 {
			return fmt.Errorf("%d peers, %w", len(d.Peers), err)
		}
		return nil
	})
	t.Logf("399 peers deleted and back within %v", time.Since(repaired).Round(time.Millisecond))
}

// cpu is the time that the agent has spent.
func (m *machine) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.agent.Process.Pid))
	m.must(err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	m.must(err1, err2)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture of Linux that Go has
	return time.Duration(user+system) * tick
}

func (m *machine) memory() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.agent.Process.Pid))
	m.must(err)
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(size)
		}
	}
	return "unknown"
}
