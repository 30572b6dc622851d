//go:build linux

// Package lab makes nodes for benchmarks: each a network namespace on a common bridge with the real
// agent and the real wireguard process, beside a real API server. There is no operator and no
// kubelet: the benchmark allocates, and calls the CNI plugin, by itself. It costs seconds where a
// whole cluster costs a minute, and nothing else runs on the nodes that are measured.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

// Lab is an API server and a bridge.
type Lab struct {
	// Client may do everything, as fast as the API server can.
	Client client.WithWatch
	// Bin is the folder with weftnet-agent, weftnet-wireguard and the CNI plugin weftnet.
	Bin string
	// Root is the repository.
	Root string

	api        netip.AddrPort
	kubeconfig string
	bridge     *nstest.Namespace
	hub        *netlink.Handle
}

// New builds the programs and starts the API server. All of it ends with the test.
func New(t *testing.T) *Lab {
	t.Helper()
	nstest.RequireRoot(t)
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{Root: root, Bin: build(t, root)}
	server := apiserver.Start(t)
	l.kubeconfig = server.Kubeconfig(t, "bench", "system:masters")
	l.connect(t, server)
	l.bridge = nstest.New(t)
	l.hub = handle(t, l.bridge)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := errors.Join(l.hub.LinkAdd(bridge), l.hub.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	pool := &v1alpha1.IPPool{}
	pool.Name = "default"
	for _, p := range pools {
		pool.Spec.CIDRs = append(pool.Spec.CIDRs, v1alpha1.PoolCIDR{CIDR: p.String()})
	}
	if err := l.Client.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return l
}

// build makes the programs as they are shipped.
func build(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"weftnet-agent": "./agent", "weftnet-wireguard": "./wireguard", "weftnet": "./cni"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

func handle(t *testing.T, ns *nstest.Namespace) *netlink.Handle {
	t.Helper()
	var nl *netlink.Handle
	var err error
	ns.Do(t, func() { nl, err = netlink.NewHandle() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nl.Close)
	return nl
}

// Plug connects a namespace to the bridge by eth0 with the addresses of the given nodes.
func (l *Lab) Plug(t *testing.T, ns *nstest.Namespace, port string, numbers ...int) {
	t.Helper()
	nl := handle(t, ns)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: port, PeerNamespace: netlink.NsFd(l.bridge.Fd())}
	if err := nl.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	eth0, err1 := nl.LinkByName("eth0")
	far, err2 := l.hub.LinkByName(port)
	br0, err3 := l.hub.LinkByName("br0")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.hub.LinkSetMaster(far, br0), l.hub.LinkSetUp(far), nl.LinkSetUp(eth0)); err != nil {
		t.Fatal(err)
	}
	for _, number := range numbers {
		for i, a := range Addresses(number) {
			addr, err := netlink.ParseAddr(netip.PrefixFrom(a, underlayBits[i]).String())
			if err != nil {
				t.Fatal(err)
			}
			if a.Is6() {
				addr.Flags = noDAD
			}
			if err := nl.AddrAdd(eth0, addr); err != nil {
				t.Fatalf("add %s to eth0: %v", addr, err)
			}
		}
	}
}

// noDAD is IFA_F_NODAD: the address is usable at once.
const noDAD = 0x02

// pools are the ranges of the cluster.
var pools = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10"), netip.MustParsePrefix("fd00:10:244::/48")}

// underlayBits are the lengths of the underlay's prefixes, which are those for benchmarks (RFC 2544
// and RFC 5180).
var underlayBits = []int{15, 48}

// Addresses of a node on the underlay.
func Addresses(number int) []netip.Addr {
	return parse(fmt.Sprintf("198.18.%d.%d", number/250, number%250+1), fmt.Sprintf("2001:2::%x", number+1))
}

// Blocks and mesh addresses of a node.
func Blocks(number int) (blocks []netip.Prefix, mesh []netip.Addr) {
	base := parse(fmt.Sprintf("10.%d.%d.0", 64+number/256, number%256), fmt.Sprintf("fd00:10:244:%x::", number))
	for i, bits := range []int{24, 64} {
		blocks = append(blocks, netip.PrefixFrom(base[i], bits))
		mesh = append(mesh, base[i].Next())
	}
	return blocks, mesh
}

func parse(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}
