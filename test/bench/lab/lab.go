//go:build linux

// Package lab makes nodes for benchmarks: each a network namespace behind a router, with the real
// agent and the real wireguard process, beside a real API server. There is no operator and no
// kubelet: the benchmark allocates, and calls the CNI plugin, by itself. It costs seconds where a
// whole cluster costs a minute, and nothing else runs on the nodes that are measured.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
)

// Lab is an API server and a router between the nodes.
type Lab struct {
	// Client may do everything, as fast as the API server can.
	Client client.WithWatch
	// Bin is the folder with weftnet-agent, weftnet-wireguard and the CNI plugin weftnet.
	Bin string
	// Root is the repository.
	Root string
	// Etcd is the URL of the API server's store.
	Etcd string

	api        netip.AddrPort
	kubeconfig string
	router     *nstest.Namespace
	hub        *netlink.Handle
}

// New builds the programs and starts the API server. All of it ends with the test.
func New(t *testing.T) *Lab {
	t.Helper()
	nstest.RequireRoot(t)
	log.SetLogger(logr.Discard()) // what goes wrong comes back as an error
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{Root: root, Bin: build(t, root)}
	server := apiserver.Start(t)
	l.Etcd = server.Etcd()
	l.kubeconfig = server.Kubeconfig(t, "bench", "system:masters")
	l.connect(t, server)
	l.router = nstest.New(t)
	l.hub = handle(t, l.router)
	Forward(t, l.router)
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

// Forward lets a namespace forward packets of both families.
func Forward(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	ns.Do(t, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
				t.Error(err)
			}
		}
	})
}

// Kubeconfig is a file for programs on the nodes that may do everything.
func (l *Lab) Kubeconfig() string { return l.kubeconfig }

// Router stands between the nodes.
func (l *Lab) Router() *nstest.Namespace { return l.router }

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

// Plug connects a namespace to the router by eth0, with the addresses of the given nodes and default
// routes. The underlay is routed, as in many a cloud: with all nodes on one link, hundreds of
// simulated ones would overflow the kernel's table of neighbours, which all namespaces share.
func (l *Lab) Plug(t *testing.T, ns *nstest.Namespace, port string, numbers ...int) {
	t.Helper()
	nl := handle(t, ns)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: port, PeerNamespace: netlink.NsFd(l.router.Fd())}
	if err := nl.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	near, err1 := nl.LinkByName("eth0")
	far, err2 := l.hub.LinkByName(port)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	errs := []error{nl.LinkSetUp(near), l.hub.LinkSetUp(far)}
	for _, number := range numbers {
		for _, a := range Addresses(number) {
			to := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
			errs = append(errs, nl.AddrAdd(near, address(a)), l.hub.RouteAdd(&netlink.Route{LinkIndex: far.Attrs().Index, Dst: to}))
		}
	}
	for _, gateway := range parse("198.19.255.254", "fe80::1") {
		errs = append(errs, l.hub.AddrAdd(far, address(gateway)),
			nl.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("plug %s in: %v", port, err)
	}
}

func address(a netip.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is6() {
		out.Flags = noDAD
		if a.IsLinkLocalUnicast() {
			out.Mask = net.CIDRMask(64, 128)
		}
	}
	return out
}

// noDAD is IFA_F_NODAD: the address is usable at once.
const noDAD = 0x02

// pools are the ranges of the cluster.
var pools = []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10"), netip.MustParsePrefix("fd00:10:244::/48")}

// Addresses of a node on the underlay, of the ranges for benchmarks (RFC 2544, RFC 5180).
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
