//go:build linux && netns

package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// lab is a node in a namespace of its own with a real kernel under the loop, Pods in theirs, and
// another node's Pod behind a link that is called like the mesh's.
type lab struct {
	testing.TB
	node    *nstest.Namespace
	remote  *nstest.Namespace
	pods    *pod.Kernel
	table   *nft.Kernel
	flows   *conntrack.Kernel
	cluster *cluster
	plugin  *plugin
	counts  *counts
	// front stands between the loop and the table, log takes what it says, and recorder what it counts.
	front    Table
	log      *slog.Logger
	recorder Recorder
	// echoes is what the loop tells of its cuts; nil where all echoes meet the rules.
	echoes  Echoes
	options desired.Options
	loop    *Loop
	stop    func()
}

var (
	remoteAddrs = []netip.Addr{netip.MustParseAddr("10.244.2.5"), netip.MustParseAddr("fd00:10:244:2::5")}
	meshAddrs   = []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")}
)

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{TB: t, node: nstest.New(t), remote: nstest.New(t), plugin: &plugin{changed: make(chan struct{}, 1)}, counts: &counts{}}
	var errs [5]error
	l.node.Do(t, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			errs[0] = errors.Join(errs[0], os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0))
		}
		l.pods, errs[1] = pod.New(pod.Config{Clsact: true})
		l.table, errs[2] = nft.NewTable(desired.TableName)
		l.flows, errs[3] = conntrack.New()
	})
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(l.pods.Close(), l.table.Close(), l.flows.Close()) })
	l.front, l.log, l.recorder = l.table, slog.New(slog.DiscardHandler), l.counts
	l.wire()
	l.cluster = l.newCluster()
	return l
}

// newCluster is what an agent reads when it starts: nothing yet.
func (l *lab) newCluster() *cluster {
	c := newCluster()
	c.setMissing("everything")
	return c
}

// wire joins the remote Pod to the node.
func (l *lab) wire() {
	l.Helper()
	l.run(l.node, "ip link add weft0 type veth peer name eth0")
	l.node.Do(l, func() {
		if out, err := exec.Command("ip", "link", "set", "eth0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.remote.Fd())).CombinedOutput(); err != nil {
			l.Errorf("move the link: %v: %s", err, out)
		}
	})
	for i, bits := range []string{"/32", "/128 nodad"} {
		l.run(l.node, "ip addr add "+meshAddrs[i].String()+bits+" dev weft0")
		l.run(l.remote, "ip addr add "+remoteAddrs[i].String()+bits+" dev eth0")
	}
	l.run(l.node, "ip link set weft0 up")
	l.run(l.remote, "ip link set eth0 up")
	for i := range remoteAddrs {
		l.run(l.node, "ip route add "+remoteAddrs[i].String()+" dev weft0")
		l.run(l.remote, "ip route add "+meshAddrs[i].String()+" dev eth0")
	}
	l.run(l.remote, "ip route add 10.244.1.0/24 via 10.244.1.1 dev eth0")
	l.run(l.remote, "ip -6 route add fd00:10:244:1::/64 via fd00:10:244:1::1 dev eth0")
}

func (l *lab) run(ns *nstest.Namespace, command string) string {
	l.Helper()
	var out []byte
	var err error
	words := strings.Fields(command)
	ns.Do(l, func() { out, err = exec.Command(words[0], words[1:]...).CombinedOutput() })
	if err != nil {
		l.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// nft runs a script.
func (l *lab) nft(ns *nstest.Namespace, script string) {
	l.Helper()
	var out []byte
	var err error
	ns.Do(l, func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		l.Fatalf("nft: %v\n%s", err, out)
	}
}

// start runs a loop, as an agent that has just started; end ends it as a kill would.
func (l *lab) start() {
	l.Helper()
	l.loop = New(Config{
		Source: l.cluster, Node: func() Node { return Node{Self: desired.Self{Name: "node1", IPs: meshAddrs}, Options: l.options} },
		Attachments: l.plugin.standing, AttachmentsChanged: l.plugin.changed, Table: l.front, Flows: l.flows, Echoes: l.echoes,
		Log: l.log, Recorder: l.recorder,
	})
	ctx, cancel := context.WithCancel(l.Context())
	done := make(chan struct{})
	loop := l.loop
	go func() { _ = loop.Run(ctx); close(done) }()
	l.stop = sync.OnceFunc(func() { cancel(); <-done })
	l.Cleanup(l.stop)
}

// labPod is a Pod of this node with its namespace.
type labPod struct {
	snapshot.Pod
	ns *nstest.Namespace
}

func (p labPod) attachment() state.Attachment { return attachment(p.Pod) }

// makePod gives a Pod a namespace, in which every packet of the tests' port is counted from the first.
func (l *lab) makePod(namespace, app string, i int) labPod {
	l.Helper()
	p := labPod{ns: nstest.New(l), Pod: snapshot.Pod{
		Namespace: namespace, Name: fmt.Sprintf("%s-%d", app, i), UID: fmt.Sprintf("uid-%s-%s-%d", namespace, app, i), Node: "node1",
		Labels: snapshot.NewLabels(map[string]string{"app": app}),
		IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0x02, 0x44, 0, 1, 15: byte(i)})},
	}}
	l.nft(p.ns, `table inet count {
		chain in {
			type filter hook prerouting priority -300
			udp dport 7000 counter
		}
	}`)
	return p
}

// add is CNI ADD: the rules, then the interface.
func (l *lab) add(p labPod) {
	l.Helper()
	l.plugin.add(p.attachment())
	if err := l.loop.Admit(l.Context(), p.attachment()); err != nil {
		l.Fatal(err)
	}
	a := p.attachment()
	if _, err := l.pods.Attach(pod.Spec{HostLink: a.HostLink, IfName: "eth0", Netns: p.ns.Fd(), Addresses: a.Addresses, MTU: 1420}); err != nil {
		l.Fatal(err)
	}
}

// delivered is how many packets of the tests' port have reached a Pod.
func (l *lab) delivered(p labPod) int {
	l.Helper()
	text := l.run(p.ns, "nft list table inet count")
	var packets int
	_, after, found := strings.Cut(text, "counter packets ")
	if _, err := fmt.Sscan(after, &packets); !found || err != nil {
		l.Fatalf("read the counter: %v in %s", err, text)
	}
	return packets
}

// listen opens a socket inside a namespace.
func listen[S any](l *lab, ns *nstest.Namespace, open func() (S, error)) S {
	l.Helper()
	var s S
	var err error
	ns.Do(l, func() { s, err = open() })
	if err != nil {
		l.Fatal(err)
	}
	return s
}

// flood sends to all addresses over and over, until the test's function says so.
func (l *lab) flood(ns *nstest.Namespace, to []netip.Addr) (stop func()) {
	l.Helper()
	sockets := listen(l, ns, func() (c [2]*net.UDPConn, err error) {
		if c[0], err = net.ListenUDP("udp4", nil); err == nil {
			c[1], err = net.ListenUDP("udp6", nil)
		}
		return c, err
	})
	ctx, cancel := context.WithCancel(l.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			for _, a := range to {
				s := sockets[0]
				if a.Is6() {
					s = sockets[1]
				}
				_, _ = s.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(a, 7000)) // before the Pod is there it is unreachable
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		_ = errors.Join(sockets[0].Close(), sockets[1].Close())
	})
	l.Cleanup(stop)
	return stop
}
