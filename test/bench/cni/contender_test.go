//go:build linux && bench

package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/weftnet/weftnet/agent/cniserver"
	"github.com/weftnet/weftnet/agent/desired/filter"
	desiredpod "github.com/weftnet/weftnet/agent/desired/pod"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/bench/plugins"
	"github.com/weftnet/weftnet/test/nstest"
)

// contender is a network configuration, on a node of its own.
type contender struct {
	name  string
	ports bool
	node  *nstest.Namespace
	list  *libcni.NetworkConfigList
	cni   *libcni.CNIConfig
	pods  []*nstest.Namespace
}

var (
	blocks   = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	reserved = []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")}
)

// build gives the folder of the plugins, ours and the reference.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	plugins.Build(t, dir)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "weftnet"), "github.com/weftnet/weftnet/cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return dir
}

func newNode(t *testing.T) *nstest.Namespace {
	t.Helper()
	ns := nstest.New(t)
	ns.Do(t, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
				t.Error(err)
			}
		}
	})
	return ns
}

func newContender(t *testing.T, name, plugins, conf string, ports bool, pods []*nstest.Namespace) *contender {
	t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	return &contender{
		name: name, ports: ports, node: newNode(t), list: list, pods: pods,
		cni: libcni.NewCNIConfigWithCacheDir([]string{plugins}, t.TempDir(), nil),
	}
}

// ptp is the reference, with portmap when asked for. Dual stack it waits more than a second for the
// detection of duplicate addresses, which says little of the rest: so it is measured with IPv4 alone,
// too, and Weftnet, which always does both families, is held against that.
func ptp(t *testing.T, plugins string, ports, dual bool, pods []*nstest.Namespace) *contender {
	chained, name := "", "ptp + host-local"
	if ports {
		chained, name = `,{"type":"portmap","snat":true,"capabilities":{"portMappings":true}}`, "ptp + host-local + portmap"
	}
	ranges, routes := fmt.Sprintf(`[{"subnet":%q}]`, blocks[0]), `{"dst":"0.0.0.0/0"}`
	if dual {
		ranges, routes, name = ranges+fmt.Sprintf(`,[{"subnet":%q}]`, blocks[1]), routes+`,{"dst":"::/0"}`, name+", dual stack"
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"reference","plugins":[{"type":"ptp","mtu":1420,"ipam":{"type":"host-local","dataDir":%q,
		"ranges":[%s],"routes":[%s]}}%s]}`, t.TempDir(), ranges, routes, chained)
	return newContender(t, name, plugins, conf, ports, pods)
}

// weftnet is the agent's CNI server, with the kernel and the disk as in production, and the plugin.
func weftnet(t *testing.T, plugins string, ports bool, pods []*nstest.Namespace) *contender {
	name := "weftnet"
	if ports {
		name = "weftnet with hostPort"
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "cni.sock")
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"weftnet","plugins":[{"type":"weftnet","socket":%q,"capabilities":{"portMappings":true}}]}`, socket)
	c := newContender(t, name, plugins, conf, ports, pods)
	startServer(t, c.node, socket, filepath.Join(dir, "ipam"))
	return c
}

func startServer(t *testing.T, node *nstest.Namespace, socket, stateDir string) {
	t.Helper()
	var kernel *pod.Kernel
	var tables *nft.Kernel
	var flows *conntrack.Kernel
	var err, terr, ferr error
	node.Do(t, func() {
		kernel, err = pod.New(pod.Config{Clsact: true})
		tables, terr = nft.New()
		flows, ferr = conntrack.New()
	})
	if err := errors.Join(err, terr, ferr); err != nil {
		t.Fatal(err)
	}
	if _, err := tables.Ensure(t.Context(), filter.Table(filter.Input{ClusterCIDRs: blocks})); err != nil {
		t.Fatal(err)
	}
	rules := &tableRules{kernel: tables}
	server, err := cniserver.New(cniserver.Config{
		NodeName: "bench", Socket: socket, StateDir: stateDir, Pods: kernel, Rules: rules, Flows: flows,
		Ready: func() error { return nil }, Cooldown: 1, // as host-local, which has none
	})
	if err != nil {
		t.Fatal(err)
	}
	rules.attachments = server.Attachments
	server.SetNode(cniserver.Node{Blocks: blocks, Reserved: reserved, MTU: 1420})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, kernel.Close(), tables.Close(), flows.Close()); err != nil {
			t.Error(err)
		}
	})
}

// tableRules has the Pods and their host ports in the node's real nftables table, as the agent does: a
// Pod without host ports is an addition to the table that stands, and for the others one update serves
// all that have asked before it began.
type tableRules struct {
	kernel      *nft.Kernel
	attachments func() []state.Attachment

	asked  atomic.Uint64
	mu     sync.Mutex
	served uint64
	err    error
}

func (r *tableRules) Add(ctx context.Context, a state.Attachment) error {
	if len(a.HostPorts) == 0 {
		return r.kernel.AddElements(ctx, filter.PodElements(filter.Pod{Link: a.HostLink, Addresses: a.Addresses}))
	}
	return r.update(ctx, a)
}

func (r *tableRules) Remove(ctx context.Context, a state.Attachment) error { return r.update(ctx, a) }

func (r *tableRules) update(ctx context.Context, a state.Attachment) error {
	if len(a.HostPorts) == 0 {
		return nil
	}
	mine := r.asked.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served >= mine {
		return r.err
	}
	r.served = r.asked.Load()
	plan := desiredpod.Plan(desiredpod.Input{Attachments: r.attachments()})
	in := filter.Input{ClusterCIDRs: blocks, HostPorts: plan.HostPorts}
	for _, a := range r.attachments() {
		in.Pods = append(in.Pods, filter.Pod{Link: a.HostLink, Addresses: a.Addresses})
	}
	_, r.err = r.kernel.Update(ctx, filter.Table(in))
	return r.err
}

// runtimeConf is what a runtime says of the i-th Pod.
func (c *contender) runtimeConf(i int) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: fmt.Sprintf("container-%d", i), IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.pods[i].Fd()),
	}
	if c.ports {
		rt.CapabilityArgs = map[string]any{"portMappings": []map[string]any{{"hostPort": 20000 + i, "containerPort": 80, "protocol": "tcp"}}}
	}
	return rt
}

func (c *contender) add(i int) error {
	res, err := c.cni.AddNetworkList(context.Background(), c.list, c.runtimeConf(i))
	if err != nil {
		return err
	}
	text, err := json.Marshal(res)
	if err != nil {
		return err
	}
	var got struct {
		IPs []struct{ Address string } `json:"ips"`
	}
	if err := json.Unmarshal(text, &got); err != nil || len(got.IPs) == 0 {
		return fmt.Errorf("%s: result %s: %w", c.name, text, err)
	}
	return nil
}

func (c *contender) del(i int) error {
	return c.cni.DelNetworkList(context.Background(), c.list, c.runtimeConf(i))
}
