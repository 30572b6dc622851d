//go:build linux && bench

package service

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/kubeproxy"
	"github.com/weftnet/weftnet/test/nstest"
)

// side is a node with one of the two proxies.
type side struct {
	name string
	node *lab.Node
	// start, stop and start again the proxy; what it has made in the kernel stays.
	start, stop, restart func(*testing.T)
	pid                  func() int
	// rest between two quiet changes.
	rest time.Duration
	// samples of quiet changes.
	samples int
}

// newNode is a fresh one, so that nothing of an earlier round is in its kernel.
func (w *world) newNode(t *testing.T) *lab.Node {
	t.Helper()
	number := w.nodes
	w.nodes++
	if err := w.lab.Allocate(t.Context(), number); err != nil {
		t.Fatal(err)
	}
	n := w.lab.NewNode(t, number)
	run(t, n.NS, "ip", "route", "add", "local", endpoints4.String(), "dev", "lo")
	run(t, n.NS, "ip", "-6", "route", "add", "local", endpoints6.String(), "dev", "lo")
	answer(t, n.NS)
	return n
}

// weftnet is the agent as it is shipped, with the wireguard process that it needs for the mesh. Its
// memory and its CPU time hold the mesh's share, too. The balancer at the socket is measured by itself,
// in test/bench/socket; with it no connection of this benchmark would meet a rule.
func (w *world) weftnet(t *testing.T) *side {
	t.Helper()
	n := w.newNode(t)
	flags := append([]string{"--service-proxy=true", "--socket-lb=off"}, strings.Fields(os.Getenv("SERVICE_BENCH_FLAGS"))...)
	return &side{
		name: weftnetName, node: n, pid: n.AgentPID, rest: 50 * time.Millisecond, samples: 200,
		start:   func(t *testing.T) { n.Start(t, flags...) },
		restart: func(t *testing.T) { n.StartAgent(t, flags...) },
		stop:    n.StopAgent,
	}
}

// kubeProxy in nftables mode. It waits at least a second between two runs, and a change within that time
// would not be a quiet one.
func (w *world) kubeProxy(t *testing.T) *side {
	t.Helper()
	n := w.newNode(t)
	var p *kubeproxy.Proxy
	start := func(t *testing.T) {
		p = kubeproxy.Start(t, n.NS, kubeproxy.Config{
			Bin: filepath.Join(w.lab.Root, ".testbed", "bin"), Node: lab.Name(n.Number), Kubeconfig: w.lab.Kubeconfig(),
			Mode: "nftables", ClusterCIDR: "10.64.0.0/10,fd00:10:244::/48",
		})
	}
	return &side{
		name: rivalName, node: n, rest: 1200 * time.Millisecond, samples: 15,
		start: start, stop: func(t *testing.T) { p.Stop(t) }, pid: func() int { return p.PID() },
		restart: start,
	}
}

// answer serves every endpoint of the node: who connects is told the address that it has reached.
func answer(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	var listener net.Listener
	var err error
	ns.Do(t, func() { listener, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", endpointPort)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed with the test
			}
			at := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().AsSlice()
			_, _ = c.Write(at)
			_ = c.Close()
		}
	}()
}

// refuse answers what no proxy has translated at once: the router resets it, where it would otherwise
// time out.
func refuse(t *testing.T, router *nstest.Namespace) {
	t.Helper()
	run(t, router, "nft", fmt.Sprintf(`add table inet untranslated;
		add chain inet untranslated prerouting { type filter hook prerouting priority 0; };
		add chain inet untranslated input { type filter hook input priority 0; };
		add chain inet untranslated forward { type filter hook forward priority 0; };
		add rule inet untranslated forward ip daddr %[1]s tcp dport %[3]d reject with tcp reset;
		add rule inet untranslated forward ip6 daddr %[2]s tcp dport %[3]d reject with tcp reset`,
		apiserver.ServiceCIDRv4, apiserver.ServiceCIDRv6, servicePort))
	// A packet is forwarded where there is a route, and back to where it came from is one.
	run(t, router, "ip", "link", "add", "nowhere", "type", "bridge")
	run(t, router, "ip", "link", "set", "nowhere", "up")
	run(t, router, "ip", "route", "add", apiserver.ServiceCIDRv4, "dev", "nowhere")
	run(t, router, "ip", "-6", "route", "add", apiserver.ServiceCIDRv6, "dev", "nowhere")
}

func run(t *testing.T, ns *nstest.Namespace, name string, args ...string) {
	t.Helper()
	var out []byte
	var err error
	ns.Do(t, func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
