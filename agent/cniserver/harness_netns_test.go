//go:build linux && netns

package cniserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/desired/filter"
	desiredpod "github.com/weftnet/weftnet/agent/desired/pod"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

const testMTU = 1420

// pluginDir holds the plugin, and cnitool, as built for the tests.
var pluginDir string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == crashServer {
		os.Exit(runCrashServer(os.Args[2:]))
	}
	os.Exit(func() int {
		var err error
		if pluginDir, err = os.MkdirTemp("", "cniserver-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(pluginDir) }()
		for _, build := range [][]string{
			{"build", "-o", filepath.Join(pluginDir, "weftnet"), "github.com/weftnet/weftnet/cni"},
			{"build", "-C", "../../tools/cni", "-o", filepath.Join(pluginDir, "cnitool"), "github.com/containernetworking/cni/cnitool"},
		} {
			cmd := exec.Command("go", build...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "go %s: %v\n%s", strings.Join(build, " "), err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// testNode is a node in a namespace of its own, with a server and real rules.
type testNode struct {
	t        *testing.T
	ns       *nstest.Namespace
	dir      string
	cfg      Config
	node     Node
	server   *Server
	notReady atomic.Pointer[error]
	stop     func()
}

func prepareNode(t *testing.T) *testNode {
	t.Helper()
	n := &testNode{t: t, ns: nstest.New(t), dir: t.TempDir()}
	n.node = Node{
		Blocks:   []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
		Reserved: []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")},
		MTU:      testMTU,
	}
	n.cfg = Config{
		NodeName: "node-a", Socket: filepath.Join(n.dir, "run/cni.sock"), StateDir: filepath.Join(n.dir, "ipam"),
		Ready: func() error {
			if err := n.notReady.Load(); err != nil {
				return *err
			}
			return nil
		},
		Cooldown: time.Hour, // no address comes twice within a test, unless it asks for that
	}
	n.ns.Do(t, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
				t.Error(err)
			}
		}
		lo, err := netlink.LinkByName("lo") // the node's own addresses; on a real node they are on weft0
		for _, a := range n.node.Reserved {
			bits := a.BitLen()
			err = errors.Join(err, netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, bits)}}))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return n
}

func newNode(t *testing.T) *testNode {
	t.Helper()
	n := prepareNode(t)
	n.start()
	return n
}

// start runs a server until the test ends or stop is called.
func (n *testNode) start() {
	t := n.t
	t.Helper()
	var kernel *pod.Kernel
	var tables *nft.Kernel
	var flows *conntrack.Kernel
	var err, terr, ferr error
	n.ns.Do(t, func() {
		kernel, err = pod.New(pod.Config{})
		tables, terr = nft.New()
		flows, ferr = conntrack.New()
	})
	if err := errors.Join(err, terr, ferr); err != nil {
		t.Fatal(err)
	}
	cfg := n.cfg
	cfg.Pods, cfg.Flows = kernel, flows
	cfg.Rules = &tableRules{kernel: tables, node: n.node, attachments: func() []state.Attachment { return n.server.Attachments() }}
	if n.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.server.SetNode(n.node)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.server.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			_ = kernel.Close()
			_ = errors.Join(tables.Close(), flows.Close())
		})
	}
	t.Cleanup(n.stop)
	eventually(t, "the server listens", n.listens)
}

// listens tells whether somebody takes connections; a request without a byte is refused.
func (n *testNode) listens() bool {
	c, err := net.Dial("unix", n.cfg.Socket)
	return err == nil && c.Close() == nil
}

// tableRules has the Pods and their host ports in the node's real nftables table, as the agent does.
type tableRules struct {
	mu          sync.Mutex
	kernel      *nft.Kernel
	node        Node
	attachments func() []state.Attachment
}

func (r *tableRules) Add(ctx context.Context, _ state.Attachment) error { return r.update(ctx) }

func (r *tableRules) Remove(ctx context.Context, a state.Attachment) error {
	if len(a.HostPorts) == 0 {
		return nil
	}
	return r.update(ctx)
}

func (r *tableRules) update(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := filter.Input{ClusterCIDRs: r.node.Blocks}
	for _, a := range r.attachments() {
		in.Pods = append(in.Pods, filter.Pod{Link: a.HostLink, Addresses: a.Addresses})
	}
	in.HostPorts = desiredpod.Plan(desiredpod.Input{Attachments: r.attachments()}).HostPorts
	_, err := r.kernel.Update(ctx, filter.Table(in))
	return err
}

// call is one run of the plugin.
type call struct {
	command, container, ifName string
	netns                      *nstest.Namespace
	config                     map[string]any
	args                       string
}

// answer is what the plugin printed.
type answer struct {
	out  []byte
	code int
	msg  string
}

func netnsPath(ns *nstest.Namespace) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
}

func (n *testNode) call(c call) answer {
	n.t.Helper()
	if c.netns == nil {
		return n.callAt(c, "")
	}
	return n.callAt(c, netnsPath(c.netns))
}

func (n *testNode) callAt(c call, netns string) answer {
	n.t.Helper()
	config := map[string]any{"cniVersion": "1.1.0", "name": "weftnet", "type": "weftnet", "socket": n.cfg.Socket}
	for k, v := range c.config {
		config[k] = v
	}
	text, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	if c.ifName == "" {
		c.ifName = "eth0"
	}
	cmd := exec.Command(filepath.Join(pluginDir, "weftnet"))
	cmd.Env = []string{"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=" + c.container, "CNI_IFNAME=" + c.ifName, "CNI_PATH=" + pluginDir, "CNI_ARGS=" + c.args}
	if netns != "" {
		cmd.Env = append(cmd.Env, "CNI_NETNS="+netns)
	}
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	a := answer{out: out, code: -1}
	if err == nil {
		return a
	}
	var fail struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	}
	if jerr := json.Unmarshal(out, &fail); jerr != nil {
		n.t.Errorf("%s: %v, and no CNI error but %q", c.command, err, out)
	}
	a.code, a.msg = fail.Code, fail.Msg
	return a
}

// ok is call, when it must succeed.
func (n *testNode) ok(c call) []byte {
	n.t.Helper()
	a := n.call(c)
	if a.code >= 0 {
		n.t.Fatalf("%s of %s: code %d: %s", c.command, c.container, a.code, a.msg)
	}
	return a.out
}

// fails is call, when it must fail with the code and words.
func (n *testNode) fails(c call, code int, words ...string) {
	n.t.Helper()
	a := n.call(c)
	if a.code != code {
		n.t.Errorf("%s of %s: code %d (%s), want %d", c.command, c.container, a.code, a.msg, code)
	}
	for _, w := range words {
		if !strings.Contains(a.msg, w) {
			n.t.Errorf("%s of %s says %q, want it to say %q", c.command, c.container, a.msg, w)
		}
	}
}

// addPod makes a Pod and returns its namespace and addresses.
func (n *testNode) addPod(container string, config map[string]any) (*nstest.Namespace, []netip.Addr) {
	n.t.Helper()
	ns := nstest.New(n.t)
	out := n.ok(call{command: "ADD", container: container, netns: ns, config: config, args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container})
	return ns, addresses(n.t, out)
}

func addresses(t *testing.T, result []byte) []netip.Addr {
	t.Helper()
	var r struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(result, &r); err != nil {
		t.Fatalf("result %q: %v", result, err)
	}
	var out []netip.Addr
	for _, ip := range r.IPs {
		out = append(out, ip.Address.Addr())
	}
	return out
}

func (n *testNode) links() []pod.Found {
	n.t.Helper()
	found, err := n.server.cfg.Pods.Observe()
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

// used counts the IPv4 addresses in use.
func (n *testNode) used() int { return n.server.book.usage()[0].Used }

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// disjoint fails when two Pods share an address.
func disjoint(t *testing.T, all ...[]netip.Addr) {
	t.Helper()
	joined := slices.Concat(all...)
	slices.SortFunc(joined, netip.Addr.Compare)
	if n := len(joined); len(slices.Compact(joined)) != n {
		t.Errorf("an address is used twice: %v", all)
	}
}
