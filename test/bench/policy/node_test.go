//go:build linux && bench

package policy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/desired/flow"
	"github.com/weftnet/weftnet/agent/desired/service"
	kernelflow "github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

// node is one with two Pods, and a third behind a tunnel.
type node struct {
	t       *testing.T
	name    string
	ns      *nstest.Namespace
	client  *nstest.Namespace
	server  *nstest.Namespace
	outside *nstest.Namespace
	fast    *kernelflow.Kernel // nil where every packet meets the rules
}

func newNode(t *testing.T, s shape, fast bool) *node {
	t.Helper()
	n := &node{t: t, name: s.name, ns: nstest.New(t), client: nstest.New(t), server: nstest.New(t), outside: nstest.New(t)}
	n.run(n.ns, "sysctl -q -w net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1 net/ipv6/conf/default/accept_dad=0")
	n.join(n.client, clientLink, client, stranger)
	n.join(n.server, serverLink, server)
	n.tunnel()
	n.write(meshTable())
	n.write(service.Table(snapshot.ServiceNode{Name: "node-1", NodeIPs: nodeIPs, NodePortIPs: nodeIPs}, nil))
	n.enforce(s)
	if fast {
		n.fastPath()
	}
	n.serve()
	n.judges(s)
	return n
}

// join puts a Pod behind a link of the node, as the CNI plugin does.
func (n *node) join(pod *nstest.Namespace, link string, has ...addresses) {
	n.t.Helper()
	n.connect(pod, link)
	n.run(n.ns, "ip addr add 169.254.1.1/32 dev "+link)
	n.run(n.ns, "ip addr add fe80::1/128 dev "+link+" nodad")
	n.run(pod, "ip route add 169.254.1.1/32 dev eth0")
	n.run(pod, "ip route add default via 169.254.1.1 dev eth0")
	n.run(pod, "ip -6 route add default via fe80::1 dev eth0")
	for _, a := range has {
		n.run(pod, "ip addr add "+a.v4.String()+"/32 dev eth0")
		n.run(pod, "ip addr add "+a.v6.String()+"/128 dev eth0 nodad")
		n.run(n.ns, "ip route add "+a.v4.String()+" dev "+link)
		n.run(n.ns, "ip route add "+a.v6.String()+" dev "+link)
	}
}

// connect makes a veth pair: link at the node, eth0 at the other side.
func (n *node) connect(other *nstest.Namespace, link string) {
	n.t.Helper()
	n.run(other, "sysctl -q -w net/ipv6/conf/default/accept_dad=0")
	var err error
	n.ns.Do(n.t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = link, 1500
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerMTU: 1500, PeerNamespace: netlink.NsFd(other.Fd())})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.run(n.ns, "ip link set "+link+" up")
	n.run(other, "ip link set eth0 up")
}

// tunnel leads to a Pod elsewhere: WireGuard's own work, many times that of policies, would hide what they cost.
func (n *node) tunnel() {
	n.t.Helper()
	n.connect(n.outside, "uplink")
	n.run(n.ns, "ip addr add 10.200.0.1/24 dev uplink")
	n.run(n.outside, "ip addr add 10.200.0.2/24 dev eth0")
	n.run(n.ns, "ip link add weft0 mtu 1450 type vxlan id 87 local 10.200.0.1 remote 10.200.0.2 dstport 4789")
	n.run(n.outside, "ip link add weft0 mtu 1450 type vxlan id 87 local 10.200.0.2 remote 10.200.0.1 dstport 4789")
	for _, ns := range []*nstest.Namespace{n.ns, n.outside} {
		n.run(ns, "ip link set weft0 up")
	}
	n.run(n.ns, "ip addr add "+gateway.v4.String()+"/32 dev weft0")
	n.run(n.ns, "ip addr add "+gateway.v6.String()+"/128 dev weft0 nodad")
	n.run(n.ns, "ip route add "+remote.v4.String()+" dev weft0")
	n.run(n.ns, "ip route add "+remote.v6.String()+" dev weft0")
	n.run(n.outside, "ip addr add "+remote.v4.String()+"/32 dev weft0")
	n.run(n.outside, "ip addr add "+remote.v6.String()+"/128 dev weft0 nodad")
	n.run(n.outside, "ip route add "+gateway.v4.String()+" dev weft0")
	n.run(n.outside, "ip route add "+gateway.v6.String()+" dev weft0")
	n.run(n.outside, "ip route add 10.244.1.0/24 via "+gateway.v4.String()+" dev weft0")
	n.run(n.outside, "ip route add fd00:244:1::/64 via "+gateway.v6.String()+" dev weft0")
}

// meshTable is the mesh's, and what an agent writes beside the policies on any node, as are the rules of the service proxy:
// policies cost what they add to them.
func meshTable() state.Table {
	return filter.Table(filter.Input{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32")},
		NodeIPs:      nodeIPs,
		Pods:         []filter.Pod{{Link: clientLink, Addresses: append(client.both(), stranger.both()...)}, {Link: serverLink, Addresses: server.both()}},
	})
}

// enforce writes the rules that the policies mean.
func (n *node) enforce(s shape) { n.write(s.engine().Table()) }

func (n *node) write(table state.Table) {
	n.t.Helper()
	var k *nft.Kernel
	var err error
	n.ns.Do(n.t, func() { k, err = nft.NewTable(table.Name) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = k.Close() })
	if _, err := k.Ensure(n.t.Context(), table); err != nil {
		n.t.Fatal(err)
	}
}

// fastPath takes the two Pods into it, as the agent does by default.
func (n *node) fastPath() {
	n.t.Helper()
	n.run(n.ns, "sysctl -q -w net/netfilter/nf_conntrack_tcp_be_liberal=1")
	pods := []state.Attachment{
		{HostLink: clientLink, ContainerID: "client", Addresses: []netip.Addr{client.v4, client.v6}},
		{HostLink: serverLink, ContainerID: "server", Addresses: []netip.Addr{server.v4, server.v6}},
	}
	for _, p := range pods {
		n.run(n.ns, "tc qdisc add dev "+p.HostLink+" clsact")
	}
	var k *kernelflow.Kernel
	var err error
	n.ns.Do(n.t, func() { k, err = kernelflow.Open() })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = k.Close() })
	links, err := k.Observe(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	plan := flow.Plan(flow.Input{Attachments: pods, Links: links})
	// The kernel's own times for UDP, the agent's for TCP.
	fresh := flow.FreshFor(flow.Tracking{Established: 24 * time.Hour, UDP: 30 * time.Second, UDPStream: 2 * time.Minute, Liberal: true})
	w := kernelflow.Wanted{Links: plan.Links, Pods: plan.Pods, Fresh: fresh}
	if err := k.Apply(n.t.Context(), w); err != nil {
		n.t.Fatal(err)
	}
	n.fast = k
}

// passedBy requires that the fast path was taken where there is one: a comparison without it would be of something else.
func (n *node) passedBy() {
	n.t.Helper()
	if n.fast == nil {
		return
	}
	stats, err := n.fast.Stats()
	if err != nil {
		n.t.Fatal(err)
	}
	if least := uint64(100_000); stats.Fast < least {
		n.t.Fatalf("%s: %d packets took the fast path, want at least %d", n.name, stats.Fast, least)
	}
}

// judges requires that the policies are in force: without any everybody reaches the server, with some the
// stranger does not.
func (n *node) judges(s shape) {
	n.t.Helper()
	for _, c := range []struct {
		from, to netip.Addr
		allowed  bool
	}{
		{client.v4, server.v4, true}, {client.v6, server.v6, true},
		{stranger.v4, server.v4, s.policies == 0}, {stranger.v6, server.v6, s.policies == 0},
	} {
		var err error
		n.client.Do(n.t, func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.from.AsSlice()}, Timeout: time.Second}
			var conn net.Conn
			if conn, err = dialer.Dial("tcp", netip.AddrPortFrom(c.to, acceptPort).String()); err == nil {
				_ = conn.Close()
			}
		})
		if (err == nil) != c.allowed {
			n.t.Fatalf("%s: from %s to %s: %v, want allowed: %t", n.name, c.from, c.to, err, c.allowed)
		}
	}
}

// serve runs what is measured against.
func (n *node) serve() {
	n.t.Helper()
	iperf := exec.Command("iperf3", "-s")
	var err1, err2 error
	n.server.Do(n.t, func() { err1 = iperf.Start() })
	if err1 != nil {
		n.t.Fatal(err1)
	}
	n.t.Cleanup(func() {
		_ = iperf.Process.Kill()
		_ = iperf.Wait() // it was killed, which is an error to Wait
	})
	var listener net.Listener
	n.server.Do(n.t, func() { listener, err2 = net.Listen("tcp", fmt.Sprintf("[::]:%d", acceptPort)) })
	if err2 != nil {
		n.t.Fatal(err2)
	}
	n.t.Cleanup(func() { _ = listener.Close() })
	go accept(listener)
	for _, w := range ways {
		for _, to := range server.both() {
			err := harness.Eventually(n.t.Context(), 20*time.Second, n.name+": the server answers", func(ctx context.Context) error {
				_, err := runIperf(ctx, w.from(n), to, "-n", "1K")
				return err
			})
			if err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

func (n *node) run(ns *nstest.Namespace, command string) {
	n.t.Helper()
	words := strings.Fields(command)
	n.output(ns, exec.Command(words[0], words[1:]...))
}

func (n *node) output(ns *nstest.Namespace, cmd *exec.Cmd) {
	n.t.Helper()
	var out []byte
	var err error
	ns.Do(n.t, func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}
