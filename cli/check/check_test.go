package check

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/probe"
)

func cluster() Cluster {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.200.0.11"}, {Type: corev1.NodeInternalIP, Address: "fd00:c8::11"}, {Type: corev1.NodeHostName, Address: "a"},
	}
	return Cluster{
		Version: "v1.37.2", Nodes: []corev1.Node{node}, ServiceCIDRs: []string{"10.96.0.0/16", "fd00:10:96::/112"},
		Pools: []string{"10.244.0.0/16", "fd00:10:244::/48"}, DaemonSets: []string{"kube-system/kube-proxy"},
		Blocks: map[string][]string{"a": {"10.244.0.0/24", "fd00:10:244::/64"}}, Pods: []corev1.Pod{podOn("a", "10.244.0.5", "fd00:10:244::5")},
	}
}

func podOn(node string, addresses ...string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{NodeName: node}}
	p.Status.Phase = corev1.PodRunning
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

const strangers = "Pods of an earlier network"

func TestCluster(t *testing.T) {
	for name, test := range map[string]struct {
		do    func(*Cluster)
		check string
		want  Answer
		words string
	}{
		"well":                        {func(*Cluster) {}, "pool 10.244.0.0/16", Good, "overlaps nothing"},
		"k3s version":                 {func(c *Cluster) { c.Version = "v1.34.1+k3s1" }, "Kubernetes version", Good, ""},
		"old version":                 {func(c *Cluster) { c.Version = "v1.32.9" }, "Kubernetes version", Bad, "v1.32.9"},
		"odd version":                 {func(c *Cluster) { c.Version = "new" }, "Kubernetes version", Unknown, ""},
		"pool in the Service CIDR":    {func(c *Cluster) { c.Pools = []string{"10.0.0.0/8"} }, "pool 10.0.0.0/8", Bad, "the Service CIDR 10.96.0.0/16"},
		"pool around a node":          {func(c *Cluster) { c.Pools = []string{"fd00:c8::/64"} }, "pool fd00:c8::/64", Bad, "fd00:c8::11 of node a"},
		"two pools":                   {func(c *Cluster) { c.Pools = []string{"10.1.0.0/16", "10.1.4.0/24"} }, "pool 10.1.0.0/16", Bad, "the pool 10.1.4.0/24"},
		"no range":                    {func(c *Cluster) { c.Pools = []string{"ten"} }, "pool ten", Bad, ""},
		"another network":             {func(c *Cluster) { c.DaemonSets = []string{"kube-flannel/kube-flannel-ds"} }, "other networks", Bad, "kube-flannel-ds"},
		"a node without an address":   {func(c *Cluster) { c.Nodes[0].Status.Addresses = nil }, "node addresses", Bad, "a has no InternalIP"},
		"kube-proxy alone":            {func(*Cluster) {}, "kube-proxy", Good, "DaemonSet kube-system/kube-proxy"},
		"no kube-proxy":               {func(c *Cluster) { c.DaemonSets = nil }, "kube-proxy", Good, "none seen"},
		"kube-proxy beside ours":      {func(c *Cluster) { c.KubeProxies = []string{"a: kube-proxy runs"} }, "kube-proxy", Bad, "a: kube-proxy runs"},
		"Pods of our own":             {func(*Cluster) {}, strangers, Good, "none seen"},
		"a Pod of another network":    {func(c *Cluster) { c.Pods = append(c.Pods, podOn("a", "10.42.0.7")) }, strangers, Bad, "1: shop/web (10.42.0.7 on a)"},
		"its second address":          {func(c *Cluster) { c.Pods = append(c.Pods, podOn("a", "10.244.0.7", "fd00:42::7")) }, strangers, Bad, "fd00:42::7 on a"},
		"in another node's block":     {func(c *Cluster) { c.Pods = append(c.Pods, podOn("a", "10.244.1.7")) }, strangers, Bad, "10.244.1.7 on a"},
		"a node without blocks yet":   {func(c *Cluster) { c.Pods = append(c.Pods, podOn("b", "10.42.0.7")) }, strangers, Good, ""},
		"a Pod of the host's network": {func(c *Cluster) { p := podOn("a", "10.200.0.11"); p.Spec.HostNetwork = true; c.Pods = []corev1.Pod{p} }, strangers, Good, ""},
		"a Pod that has ended": {func(c *Cluster) {
			p := podOn("a", "10.42.0.7")
			p.Status.Phase = corev1.PodSucceeded
			c.Pods = []corev1.Pod{p}
		}, strangers, Good, ""},
		"a DaemonSet of another sort": {func(c *Cluster) { c.DaemonSets = []string{"x/my-cilium"} }, "other networks", Good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster()
			test.do(&c)
			for _, r := range c.Results() {
				if r.Name == test.check {
					if r.Answer != test.want || !strings.Contains(r.Text, test.words) {
						t.Errorf("got %s %q, want %s with %q", r.Answer, r.Text, test.want, test.words)
					}
					return
				}
			}
			t.Errorf("no check is named %q", test.check)
		})
	}
	if Failed(cluster().Results()) {
		t.Errorf("a good cluster fails: %+v", cluster().Results())
	}
}

func TestNode(t *testing.T) {
	features := func(wireguard, tun, required, optional link.Answer) []probe.Feature {
		f := func(name string, need probe.Need, a link.Answer) probe.Feature {
			return probe.Feature{Name: name, Need: need, Use: "u", Probe: link.Probe{Answer: a, Reason: "r"}}
		}
		return []probe.Feature{f("wireguard", probe.Backend, wireguard), f("tun", probe.Backend, tun), f("nft", probe.Required, required), f("ifb", probe.Optional, optional)}
	}
	for name, test := range map[string]struct {
		features []probe.Feature
		want     map[string]Answer
	}{
		"all":                {features(link.Yes, link.Yes, link.Yes, link.Yes), map[string]Answer{"WireGuard": Good, "nft": Good, "ifb": Good}},
		"tun is enough":      {features(link.No, link.Yes, link.Yes, link.No), map[string]Answer{"WireGuard": Good, "nft": Good, "ifb": Good}},
		"no backend":         {features(link.No, link.No, link.Yes, link.Yes), map[string]Answer{"WireGuard": Bad, "nft": Good, "ifb": Good}},
		"not root":           {features(link.Unknown, link.Unknown, link.Unknown, link.Unknown), map[string]Answer{"WireGuard": Unknown, "nft": Unknown, "ifb": Unknown}},
		"a requirement less": {features(link.Yes, link.No, link.No, link.Yes), map[string]Answer{"WireGuard": Good, "nft": Bad, "ifb": Good}},
	} {
		t.Run(name, func(t *testing.T) {
			results := Node(test.features)
			if len(results) != len(test.want) {
				t.Errorf("got %+v", results)
			}
			for _, r := range results {
				if r.Answer != test.want[r.Name] {
					t.Errorf("%s: got %s, want %s", r.Name, r.Answer, test.want[r.Name])
				}
			}
		})
	}
}
