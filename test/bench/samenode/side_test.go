//go:build linux && bench

package samenode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/bench/plugins"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/kubeproxy"
	"github.com/weftnet/weftnet/test/nstest"
)

// mtu of the Pods on both sides: that of the mesh over an underlay of 1500.
const mtu = 1440

// side is a node with two Pods.
type side struct {
	name     string
	node     *nstest.Namespace
	from, to *nstest.Namespace
	// address of the Pod to send to, by family.
	address map[string]netip.Addr
	// rules have to be in force on the node from before the measurement until its end.
	rules []rules
}

// weftnet is a node as the product makes it: the agent has put mesh, routes, rules and the fail-closed
// table in force and wired the Pods, and is gone when the measurement begins.
func weftnet(t *testing.T, l *lab.Lab, services []netip.Addr, fastPath string) *side {
	t.Helper()
	ctx := t.Context()
	if err := l.Allocate(ctx, 0); err != nil {
		t.Fatal(err)
	}
	for number := 1; number <= 2; number++ {
		simulate(t, l, number)
	}
	node := l.NewNode(t, 0)
	node.Start(t, "--fast-path="+fastPath)
	l.WaitMesh(t, 0, 2, 0, time.Minute)
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"weftnet","plugins":[{"type":"weftnet","socket":%q}]}`, filepath.Join(node.Run, "weftnet/cni.sock"))
	s := &side{name: "weftnet", node: node.NS, rules: []rules{
		{family: "inet", table: state.TableName}, {family: "inet", table: state.ServiceTableName, services: services},
	}}
	s.awaitRules(t)
	s.wire(t, l.Bin, conf)
	if fastPath == "auto" {
		s.awaitFastPath(t)
	}
	node.Stop(t)
	return s
}

// awaitFastPath waits until both Pods are in it: the agent comes round to them after the plugin has answered.
func (s *side) awaitFastPath(t *testing.T) {
	t.Helper()
	err := harness.Eventually(t.Context(), 30*time.Second, "both Pods are in the fast path", func(context.Context) error {
		out, err := s.output(t, s.node, exec.Command("sh", "-c",
			`ip -o link show type veth | sed 's/^[0-9]*: //; s/[@:].*//' | while read -r link; do tc filter show dev "$link" ingress; done`))
		if n := strings.Count(out, "direct-action"); err != nil || n != 2 {
			return fmt.Errorf("%d programs are attached, %w:\n%s", n, err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// simulate makes another node of the cluster that has published a key, so that the node measured has
// the routes and rules of a cluster.
func simulate(t *testing.T, l *lab.Lab, number int) {
	t.Helper()
	m, err := l.CreateMeshNode(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	m.Status = v1alpha1.MeshNodeStatus{
		PublicKey: state.NewPrivateKey([state.KeySize]byte{8, byte(number)}).Public().String(), KeyEpoch: 1,
		Endpoints: []string{lab.Addresses(number)[0].String()}, ListenPort: 51820,
	}
	if err := l.Client.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// reference is a node with ptp and host-local, without masquerade, the least that it can do, and with kube-proxy in
// nftables mode, in whose place our node has the agent. kube-proxy has put its rules in force and is gone, as our agent is, when the
// measurement begins.
func reference(t *testing.T, l *lab.Lab, services []netip.Addr) *side {
	t.Helper()
	const number = 9
	if err := l.CreateNode(t.Context(), number); err != nil {
		t.Fatal(err)
	}
	node := l.NewNode(t, number)
	lab.Forward(t, node.NS)
	s := &side{name: "reference", node: node.NS, rules: []rules{
		{family: "ip", table: "kube-proxy", services: only(services, netip.Addr.Is4)},
		{family: "ip6", table: "kube-proxy", services: only(services, netip.Addr.Is6)},
	}}
	proxy := kubeproxy.Start(t, node.NS, kubeproxy.Config{
		Bin: filepath.Join(l.Root, ".testbed", "bin"), Node: lab.Name(number), Kubeconfig: l.Kubeconfig(),
		Mode: "nftables", ClusterCIDR: "10.64.0.0/10,fd00:10:244::/48",
	})
	s.awaitRules(t)
	blocks, _ := lab.Blocks(number)
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"reference","plugins":[{"type":"ptp","mtu":%d,"ipam":{"type":"host-local","dataDir":%q,
		"ranges":[[{"subnet":%q}],[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}]}`, mtu, t.TempDir(), blocks[0], blocks[1])
	bin := t.TempDir()
	plugins.Build(t, bin)
	s.wire(t, bin, conf)
	proxy.Stop(t)
	return s
}

// wire adds two Pods by the plugins in a folder, and lets the second serve.
func (s *side) wire(t *testing.T, bin, conf string) {
	t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	s.from, s.to = nstest.New(t), nstest.New(t)
	s.add(t, cni, list, "from", s.from)
	s.address = s.add(t, cni, list, "to", s.to)
	s.serve(t)
}

func (s *side) add(t *testing.T, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, name string, pod *nstest.Namespace) map[string]netip.Addr {
	t.Helper()
	runtime := &libcni.RuntimeConf{ContainerID: name, IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())}
	var text []byte
	var err error
	s.node.Do(t, func() {
		result, aerr := cni.AddNetworkList(t.Context(), list, runtime)
		if err = aerr; err == nil {
			text, err = json.Marshal(result)
		}
	})
	var got struct {
		IPs []struct{ Address netip.Prefix } `json:"ips"`
	}
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		t.Fatalf("%s: wire a Pod: %v", s.name, err)
	}
	addresses := map[string]netip.Addr{}
	for _, ip := range got.IPs {
		addresses[map[bool]string{true: "IPv4", false: "IPv6"}[ip.Address.Addr().Is4()]] = ip.Address.Addr()
	}
	if len(addresses) != 2 {
		t.Fatalf("%s: the Pod has no address of each family: %s", s.name, text)
	}
	return addresses
}

func (s *side) serve(t *testing.T) {
	t.Helper()
	server := exec.Command("iperf3", "-s")
	var err error
	s.to.Do(t, func() { err = server.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed, which is an error to Wait
	})
	for family, address := range s.address {
		err := harness.Eventually(t.Context(), 15*time.Second, s.name+": Pod answers over "+family, func(ctx context.Context) error {
			_, err := iperf(ctx, s, address, "-n", "1K")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// output runs a command in a namespace.
func (s *side) output(t *testing.T, ns *nstest.Namespace, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out []byte
	var err error
	ns.Do(t, func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// assertTracked fails when the node has tracked none of the connections.
func (s *side) assertTracked(t *testing.T) {
	t.Helper()
	out, err := s.output(t, s.node, exec.Command("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))
	if count := strings.TrimSpace(out); err != nil || count == "0" {
		t.Errorf("%s: %s connections tracked, %v: this does not measure a node with kube-proxy", s.name, count, err)
	}
}
