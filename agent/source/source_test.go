package source

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func meshNode(i int) *v1alpha1.MeshNode {
	return &v1alpha1.MeshNode{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i), CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0))},
		Spec: v1alpha1.MeshNodeSpec{
			PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:10:244:%d::/64", i)},
			MeshIPs:  []string{fmt.Sprintf("10.244.%d.1", i)}, NodeIPs: []string{fmt.Sprintf("192.0.2.%d", i)},
		},
		Status: v1alpha1.MeshNodeStatus{PublicKey: fmt.Sprint("k", i), KeyEpoch: 1, Endpoints: []string{"192.0.2.1"}, ListenPort: 51820, MTU: 1440},
	}
}

func kubeNode(internal ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "node1"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"}}
	for _, a := range internal {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func pool() *v1alpha1.IPPool {
	return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec:   v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48"}}, Disabled: true},
		Status: v1alpha1.IPPoolStatus{Usage: []v1alpha1.PoolUsage{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48"}}}}
}

// TestOnlyAcceptedRangesCount: what a node takes for Pods' addresses it keeps off the underlay.
func TestOnlyAcceptedRangesCount(t *testing.T) {
	p := pool()
	p.Spec.CIDRs = append(p.Spec.CIDRs, v1alpha1.PoolCIDR{CIDR: "192.0.2.0/24"}, v1alpha1.PoolCIDR{CIDR: "10.96.0.0/16"})
	p.Status.Usage = append(p.Status.Usage, v1alpha1.PoolUsage{CIDR: "192.0.2.0/24", Refused: "it contains the address 192.0.2.1 of the node node1"})
	got, ok := poolFrom(p)
	if want := []string{"10.244.0.0/16", "fd00:10:244::/48"}; !ok || !slices.Equal(got.CIDRs, want) {
		t.Errorf("got %v, want %v: one range is refused, another not judged yet", got.CIDRs, want)
	}
}

func newSource(t *testing.T, path string) *Source {
	t.Helper()
	s, err := New(Config{
		Node: "node1", REST: &rest.Config{Host: "http://127.0.0.1:1"},
		Cache: cache.Cache{Path: path, Self: "node1"}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill is what the reflectors do after a complete list of everything.
func fill(t *testing.T, s *Source, nodes ...any) {
	t.Helper()
	for _, err := range []error{
		s.nodes.Replace(nodes, "1"), s.pools.Replace([]any{pool()}, "1"), s.configs.Replace(nil, "1"),
		s.addresses.Replace([]any{kubeNode("192.0.2.1", "2001:db8::1")}, "1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.publish()
}

func mustSnapshot(t *testing.T, s *Source) snapshot.Snapshot {
	t.Helper()
	snap, ok := s.Snapshot()
	if !ok {
		t.Fatal("there is no snapshot")
	}
	return snap
}

func TestCompleteOnlyWhenEveryListIsRead(t *testing.T) {
	s := newSource(t, filepath.Join(t.TempDir(), "peers.json"))
	if _, ok := s.Snapshot(); ok {
		t.Fatal("a snapshot of nothing")
	}
	steps := []func() error{
		func() error { return s.nodes.Replace([]any{meshNode(2), meshNode(1)}, "1") },
		func() error { return s.pools.Replace([]any{pool()}, "1") },
		func() error { return s.configs.Replace(nil, "1") },
		func() error { return s.addresses.Replace([]any{kubeNode("192.0.2.1", "2001:db8::1")}, "1") },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		s.publish()
		if got := mustSnapshot(t, s); got.Partial != (i < len(steps)-1) {
			t.Errorf("after %d lists: partial is %v", i+1, got.Partial)
		}
		if _, err := s.cfg.Cache.Load(); (err == nil) != (i == len(steps)-1) {
			t.Errorf("after %d lists: the cache says %v", i+1, err)
		}
	}
	got := mustSnapshot(t, s)
	want := snapshot.Snapshot{
		Self: "node1",
		Nodes: []snapshot.Node{
			{Name: "node1", Created: time.Unix(1700000000, 0), PodCIDRs: []string{"10.244.1.0/24", "fd00:10:244:1::/64"}, MeshIPs: []string{"10.244.1.1"},
				NodeIPs: []string{"192.0.2.1"}, PublicKey: "k1", KeyEpoch: 1, Endpoints: []string{"192.0.2.1"}, ListenPort: 51820, MTU: 1440},
			{Name: "node2", Created: time.Unix(1700000000, 0), PodCIDRs: []string{"10.244.2.0/24", "fd00:10:244:2::/64"}, MeshIPs: []string{"10.244.2.1"},
				NodeIPs: []string{"192.0.2.2"}, PublicKey: "k2", KeyEpoch: 1, Endpoints: []string{"192.0.2.1"}, ListenPort: 51820, MTU: 1440},
		},
		InternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		ExternalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		Pools:       []snapshot.Pool{{Name: "default", CIDRs: []string{"10.244.0.0/16", "fd00:10:244::/48"}}},
		Config:      snapshot.Config{ListenPort: 51820, Keepalive: 25 * time.Second, Backend: "Auto", ServiceProxy: snapshot.DefaultServiceConfig()},
	}
	if !got.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestBootWithoutTheAPIServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	fill(t, newSource(t, path), meshNode(1), meshNode(2), meshNode(3))

	s := newSource(t, path)
	first := mustSnapshot(t, s)
	if !first.Partial || len(first.Nodes) != 3 || len(first.Pools) != 1 || len(first.InternalIPs) != 2 {
		t.Fatalf("from the disk: %+v", first)
	}
	// The API server is back and node4 is heard of before the lists are complete.
	if err := s.nodes.Add(meshNode(4)); err != nil {
		t.Fatal(err)
	}
	s.publish()
	if got := mustSnapshot(t, s); !got.Partial || len(got.Nodes) != 4 {
		t.Errorf("partial %v with %d nodes", got.Partial, len(got.Nodes))
	}
	// Only the complete list proves that node3 is gone.
	fill(t, s, meshNode(1), meshNode(2), meshNode(4))
	if got := mustSnapshot(t, s); got.Partial || len(got.Nodes) != 3 || got.Nodes[2].Name != "node4" {
		t.Errorf("partial %v, nodes %+v", got.Partial, got.Nodes)
	}
}

// Neither while the agent runs nor over a restart does a node get what another had before: node2 comes
// before node3 wherever age and name decide.
func TestAStolenKeyStaysWithItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	s := newSource(t, path)
	fill(t, s, meshNode(1), meshNode(2), meshNode(3))
	thief := meshNode(2)
	thief.Status.PublicKey = "k3"
	for i := range 3 {
		fill(t, s, meshNode(1), thief, meshNode(3))
		got := mustSnapshot(t, s)
		if n := got.Nodes; got.Partial || n[1].KeyHeldBy != "node3" || n[2].KeyHeldBy != "" {
			t.Fatalf("after %d restarts: %+v", i, n)
		}
		s = newSource(t, path)
		if err := s.nodes.Add(thief); err != nil { // the first that is heard of
			t.Fatal(err)
		}
		s.publish()
		got = mustSnapshot(t, s)
		if n := got.Nodes; !got.Partial || n[1].KeyHeldBy != "node3" || n[2].KeyHeldBy != "" {
			t.Fatalf("after %d restarts, from the disk: %+v", i+1, n)
		}
	}
	fill(t, s, meshNode(1), meshNode(2), meshNode(3))
	if n := mustSnapshot(t, s).Nodes; n[1].KeyHeldBy != "" {
		t.Errorf("after the thief has given up: %+v", n)
	}
}

func TestChangesAreSignalledOnlyWhenTheyMatter(t *testing.T) {
	s := newSource(t, filepath.Join(t.TempDir(), "peers.json"))
	fill(t, s, meshNode(1), meshNode(2))
	drain(s.dirty)
	drain(s.changed)
	other := meshNode(2)
	other.Status.Peers.Connected = 7
	other.ResourceVersion = "9"
	if err := s.nodes.Update(other); err != nil {
		t.Fatal(err)
	}
	if drain(s.dirty) {
		t.Error("another node's peer count woke the agent")
	}
	other.Status.Endpoints = []string{"192.0.2.99"}
	if err := s.nodes.Update(other); err != nil {
		t.Fatal(err)
	}
	s.publish()
	if !drain(s.changed) || mustSnapshot(t, s).Nodes[1].Endpoints[0] != "192.0.2.99" {
		t.Error("a new endpoint was missed")
	}
	if err := s.nodes.Delete(other); err != nil {
		t.Fatal(err)
	}
	s.publish()
	if !drain(s.changed) || len(mustSnapshot(t, s).Nodes) != 1 {
		t.Error("a deleted node was missed")
	}
}

func drain(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestLosingItsOwnMeshNodeKeepsTheLastOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	s := newSource(t, path)
	fill(t, s, meshNode(1), meshNode(2))
	emptied := meshNode(1)
	emptied.Spec = v1alpha1.MeshNodeSpec{}
	for name, nodes := range map[string][]any{"deleted": {meshNode(2)}, "emptied": {emptied, meshNode(2)}} {
		fill(t, s, nodes...)
		own, ok := mustSnapshot(t, s).Own()
		if !ok || len(own.PodCIDRs) != 2 || len(mustSnapshot(t, s).Nodes) != 2 {
			t.Errorf("%s: own node is %+v of %d", name, own, len(mustSnapshot(t, s).Nodes))
		}
		if own, ok := mustSnapshot(t, newSource(t, path)).Own(); !ok || len(own.PodCIDRs) != 2 {
			t.Errorf("%s, after a restart: own node is %+v", name, own)
		}
	}
	moved := meshNode(1)
	moved.Spec.PodCIDRs = []string{"10.244.9.0/24"}
	fill(t, s, moved, meshNode(2))
	if own, _ := mustSnapshot(t, s).Own(); len(own.PodCIDRs) != 1 {
		t.Errorf("made anew: own node is %+v", own)
	}
}

func TestNodeAddressesOutliveTheNodeObject(t *testing.T) {
	s := newSource(t, filepath.Join(t.TempDir(), "peers.json"))
	fill(t, s, meshNode(1))
	if err := s.addresses.Replace(nil, "2"); err != nil {
		t.Fatal(err)
	}
	s.publish()
	if got := mustSnapshot(t, s); len(got.InternalIPs) != 2 || got.Partial {
		t.Errorf("addresses %v, partial %v", got.InternalIPs, got.Partial)
	}
}

func TestMeshConfig(t *testing.T) {
	c := &v1alpha1.MeshConfig{Spec: v1alpha1.MeshConfigSpec{MTU: 1400, ListenPort: 4000, Keepalive: &metav1.Duration{}, Backend: "Kernel", NoMasqueradeCIDRs: []string{"10.0.0.0/8"}}}
	c.Spec.ServiceProxy = v1alpha1.ServiceProxySettings{NodePortAddresses: []string{"192.0.2.0/24", "primary"}, Conntrack: v1alpha1.ConntrackSettings{
		MaxPerCore: new(int32(7)), Min: new(int32), TCPEstablishedTimeout: &metav1.Duration{Duration: time.Minute}, TCPCloseWaitTimeout: &metav1.Duration{}, TCPBeLiberal: true,
	}}
	got, ok := configFrom(c)
	services := snapshot.ServiceConfig{NodePortAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ConntrackMaxPerCore: 7, TCPEstablished: time.Minute, TCPBeLiberal: true}
	if want := (snapshot.Config{MTU: 1400, ListenPort: 4000, Backend: "Kernel", NoMasqueradeCIDRs: []string{"10.0.0.0/8"}, ServiceProxy: services}); !ok || !got.Equal(want) {
		t.Errorf("got %+v", got)
	}
	if got, ok := configFrom(&v1alpha1.MeshConfig{}); !ok || !got.Equal(defaultConfig()) {
		t.Errorf("an empty one gives %+v", got)
	}
	s := newSource(t, filepath.Join(t.TempDir(), "peers.json"))
	fill(t, s, meshNode(1))
	c.Name = "other"
	if err := s.configs.Replace([]any{c}, "2"); err != nil {
		t.Fatal(err)
	}
	s.publish()
	if got := mustSnapshot(t, s); !got.Config.Equal(defaultConfig()) {
		t.Errorf("a MeshConfig of another name is read: %+v", got.Config)
	}
}

func TestConnection(t *testing.T) {
	cfg, err := Connection{Server: "10.200.0.11:6443"}.REST()
	if err != nil || cfg.Host != "https://10.200.0.11:6443" || cfg.BearerTokenFile == "" {
		t.Errorf("host %v, error %v", cfg, err)
	}
	if cfg, err := (Connection{Server: "[fd00:c8::11]:6443"}).REST(); err != nil || cfg.Host != "https://[fd00:c8::11]:6443" {
		t.Errorf("host %v, error %v", cfg, err)
	}
	if _, err := (Connection{}).REST(); err == nil {
		t.Error("no server is no error")
	}
	if _, err := (Connection{Kubeconfig: "/nonexistent/kubeconfig"}).REST(); err == nil {
		t.Error("a missing kubeconfig is no error")
	}
}
