package explain

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// healthy is a mesh of two nodes in which everything is well.
func healthy() *view.Mesh {
	m := &view.Mesh{
		Config:    &v1alpha1.MeshConfig{},
		Pools:     []v1alpha1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48"}}}}},
		Agents:    map[string]view.Agent{"a": {Pod: "w/agent-a", Ready: true}, "b": {Pod: "w/agent-b", Ready: true}},
		Operators: []view.Agent{{Pod: "w/operator", Ready: true}},
		Unasked:   map[string]view.Unasked{},
		Links: map[string]map[string]view.Link{
			"a": {"b": {Endpoint: "10.200.0.12:51820", Handshake: 12 * time.Second, Received: 10, Sent: 20}},
			"b": {"a": {Endpoint: "[fd00:c8::11]:51820", Handshake: 12 * time.Second, Received: 20, Sent: 10}},
		},
	}
	for i, name := range []string{"a", "b"} {
		digit := string(rune('1' + i))
		m.Nodes = append(m.Nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		m.MeshNodes = append(m.MeshNodes, v1alpha1.MeshNode{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.MeshNodeSpec{
				PodCIDRs: []string{"10.244." + digit + ".0/24", "fd00:10:244:" + digit + "::/64"},
				NodeIPs:  []string{"10.200.0.1" + digit, "fd00:c8::1" + digit},
			},
			Status: v1alpha1.MeshNodeStatus{
				PublicKey: "key-" + name, KeyEpoch: 1, ListenPort: 51820, MTU: 1420,
				Endpoints: []string{"10.200.0.1" + digit, "fd00:c8::1" + digit},
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue},
					{Type: v1alpha1.ConditionKubeProxyPresent, Status: metav1.ConditionFalse, Reason: "NoKubeProxy"}},
			},
		})
	}
	return m
}

func condition(m *view.Mesh, name, kind, reason, message string) {
	n := m.MeshNode(name)
	n.Status.Conditions = append(n.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message})
}

type fault struct {
	name  string
	do    func(*view.Mesh)
	level Level
	about string
	words []string
}

// faults are what can be wrong with the pair, each with the words by which the user learns it.
var faults = []fault{
	{"no such node", func(m *view.Mesh) { m.Nodes, m.MeshNodes = m.Nodes[:1], m.MeshNodes[:1] }, Broken, "b", []string{"no Node of this name"}},
	{"node not ready", func(m *view.Mesh) {
		m.Nodes[1].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status."}}
	}, Suspect, "b", []string{"NodeStatusUnknown", "Kubelet stopped"}},
	{"no MeshNode", func(m *view.Mesh) { m.MeshNodes = m.MeshNodes[:1] }, Broken, "b", []string{"no MeshNode"}},
	{"no MeshNode and no operator", func(m *view.Mesh) { m.MeshNodes, m.Operators = m.MeshNodes[:1], nil }, Broken, "operator", []string{"no Pod of the operator"}},
	{"no MeshNode and a sick operator", func(m *view.Mesh) {
		m.MeshNodes, m.Operators = m.MeshNodes[:1], []view.Agent{{Pod: "w/op", Why: "CrashLoopBackOff"}}
	}, Broken, "operator", []string{"w/op", "CrashLoopBackOff"}},
	{"waits for a block", func(m *view.Mesh) {
		m.MeshNode("a").Spec.PodCIDRs = nil
		condition(m, "a", v1alpha1.ConditionAllocated, "PoolExhausted", "no /24 is free")
	}, Broken, "a", []string{"waits for a Pod CIDR", "PoolExhausted", "no /24 is free"}},
	{"waits, the pool tells why", func(m *view.Mesh) {
		m.MeshNode("a").Spec.PodCIDRs = nil
		m.Pools[0].Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Overlap", Message: "with 10.96.0.0/16"}}
	}, Broken, "a", []string{"pool default is not ready", "Overlap", "10.96.0.0/16"}},
	{"waits, there is no pool", func(m *view.Mesh) { m.MeshNode("a").Spec.PodCIDRs, m.Pools = nil, nil }, Broken, "a", []string{"there is no IPPool"}},
	{"waits, the pool is disabled", func(m *view.Mesh) { m.MeshNode("a").Spec.PodCIDRs, m.Pools[0].Spec.Disabled = nil, true }, Broken, "a", []string{"default is disabled"}},
	{"no agent", func(m *view.Mesh) { delete(m.Agents, "b") }, Suspect, "b", []string{"no agent Pod"}},
	{"agent not ready", func(m *view.Mesh) { m.Agents["b"] = view.Agent{Pod: "w/agent-b", Why: "ImagePullBackOff: not found"} }, Suspect, "b", []string{"ImagePullBackOff"}},
	{"agent restarts", func(m *view.Mesh) { m.Agents["b"] = view.Agent{Pod: "w/agent-b", Ready: true, Restarts: 9} }, Note, "b", []string{"restarted 9 times"}},
	{"no key", func(m *view.Mesh) { m.MeshNode("b").Status.PublicKey = "" }, Broken, "b", []string{"no key"}},
	{"no endpoint", func(m *view.Mesh) { m.MeshNode("b").Status.Endpoints = nil }, Broken, "b", []string{"no endpoint"}},
	{"no port", func(m *view.Mesh) { m.MeshNode("b").Status.ListenPort = 0 }, Broken, "b", []string{"no WireGuard port"}},
	{"endpoint inside a pool", func(m *view.Mesh) { m.MeshNode("b").Status.Endpoints = []string{"fd00:10:244:2::1"} }, Broken, "b", []string{"fd00:10:244:2::1", "IPPool default"}},
	{"mesh not ready", func(m *view.Mesh) {
		condition(m, "b", v1alpha1.ConditionMeshReady, "DeviceMissing", "weft0 cannot be made")
	}, Broken, "b", []string{"MeshReady", "DeviceMissing", "weft0 cannot be made"}},
	{"peers not connected", func(m *view.Mesh) {
		condition(m, "b", v1alpha1.ConditionPeersConnected, "NoHandshake", "a")
	}, Suspect, "b", []string{"PeersConnected", "NoHandshake"}},
	{"kube-proxy beside Weftnet's own", func(m *view.Mesh) {
		m.MeshNode("b").Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionKubeProxyPresent, Status: metav1.ConditionTrue, Reason: "KubeProxyRunning", Message: "it answers on port 10249"}}
	}, Suspect, "b", []string{"KubeProxyPresent", "KubeProxyRunning"}},
	{"same key", func(m *view.Mesh) { m.MeshNode("b").Status.PublicKey = "key-a" }, Broken, "a <-> b", []string{"the same key"}},
	{"no common family", func(m *view.Mesh) {
		m.MeshNode("a").Status.Endpoints, m.MeshNode("b").Status.Endpoints = []string{"10.200.0.11"}, []string{"fd00:c8::12"}
	}, Broken, "a <-> b", []string{"no address family in common"}},
	{"overlapping Pod CIDRs", func(m *view.Mesh) { m.MeshNode("b").Spec.PodCIDRs = []string{"10.244.1.128/25"} }, Broken, "a <-> b", []string{"10.244.1.0/24", "10.244.1.128/25"}},
	{"one node address twice", func(m *view.Mesh) { m.MeshNode("b").Spec.NodeIPs = []string{"fd00:c8::11"} }, Broken, "a <-> b", []string{"both claim", "fd00:c8::11"}},
	{"MTU differs", func(m *view.Mesh) { m.MeshNode("b").Status.MTU = 1340 }, Suspect, "a <-> b", []string{"1420", "1340"}},
	{"no handshake", func(m *view.Mesh) {
		m.Links["a"]["b"] = view.Link{Endpoint: "10.200.0.12:51820", Handshake: -1, Sent: 592}
	}, Broken, "a -> b", []string{"no handshake yet", "592", "10.200.0.12:51820"}},
	{"its packets come and no handshake", func(m *view.Mesh) {
		m.Links["a"]["b"] = view.Link{Endpoint: "10.200.0.12:51820", Handshake: -1, Received: 148, Sent: 592}
	}, Broken, "a -> b", []string{"no handshake yet", "148 bytes came"}},
	{"stale handshake", func(m *view.Mesh) {
		m.Links["b"]["a"] = view.Link{Endpoint: "10.200.0.11:51820", Handshake: 10 * time.Minute}
	}, Suspect, "b -> a", []string{"10m0s ago"}},
	{"peer missing on the device", func(m *view.Mesh) { delete(m.Links["b"], "a") }, Broken, "b -> a", []string{"no such peer"}},
	{"agent not asked", func(m *view.Mesh) { delete(m.Links, "b"); m.Unasked["b"] = view.Unasked{Why: "dial: timeout"} }, Note, "b -> a", []string{"not known", "dial: timeout"}},
}

// quiet changes one direction of a healthy pair: for how long nothing was answered, and when anything was heard.
func quiet(m *view.Mesh, from, to string, unanswered, heard time.Duration) {
	l := m.Links[from][to]
	l.Unanswered, l.Heard = unanswered, heard
	m.Links[from][to] = l
}

// TestSilence : a cut in one direction is told with the direction while both handshakes are young, and nobody is
// blamed who merely has nothing to say.
func TestSilence(t *testing.T) {
	const s = time.Second
	rows := []struct {
		name       string
		do         func(*view.Mesh)
		level      Level
		about, say string
	}{
		{"both idle", func(*view.Mesh) {}, Note, "", ""},
		{"idle for an hour", func(m *view.Mesh) { quiet(m, "a", "b", 0, time.Hour); quiet(m, "b", "a", 0, time.Hour) }, Note, "", ""},
		{"an answer is still awaited", func(m *view.Mesh) { quiet(m, "a", "b", 11*s, 13*s); quiet(m, "b", "a", 0, 5*s) }, Note, "", ""},
		{"an answer is late", func(m *view.Mesh) { quiet(m, "a", "b", 12*s, 13*s) }, Suspect, "a -> b", "no answer for 12s"},
		{"a to b is cut, b talks", func(m *view.Mesh) { quiet(m, "a", "b", 0, s); quiet(m, "b", "a", 21*s, 22*s) }, Broken, "a -> b", "does not arrive: b has had no answer for 21s, though a heard of it 1s ago"},
		{"b to a is cut, a talks", func(m *view.Mesh) { quiet(m, "b", "a", 0, s); quiet(m, "a", "b", 21*s, 22*s) }, Broken, "b -> a", "does not arrive: a has had no answer for 21s, though b heard of it 1s ago"},
		{"a to b is cut, and b only begins handshakes", func(m *view.Mesh) { quiet(m, "a", "b", 30*s, 5*s); quiet(m, "b", "a", 25*s, 40*s) }, Broken, "a -> b", "does not arrive"},
		{"both ways are cut", func(m *view.Mesh) { quiet(m, "a", "b", 30*s, 31*s); quiet(m, "b", "a", 25*s, 40*s) }, Broken, "a <-> b", "neither hears the other"},
		{"b is idle and does not say when it heard", func(m *view.Mesh) { quiet(m, "a", "b", 30*s, 31*s); quiet(m, "b", "a", 0, -1) }, Broken, "a -> b", "no answer for 30s"},
		{"the agent of b is not asked", func(m *view.Mesh) { quiet(m, "a", "b", 30*s, 31*s); delete(m.Links, "b") }, Broken, "a -> b", "no answer for 30s"},
		{"the agent of a is not asked", func(m *view.Mesh) { quiet(m, "b", "a", 30*s, -1); delete(m.Links, "a") }, Broken, "b -> a", "no answer for 30s"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			m := healthy()
			row.do(m)
			found := Pair(m, "a", "b")
			want := fault{level: row.level, about: row.about, words: []string{row.say}}
			switch worst := found[0]; {
			case row.about == "" && worst.Level != Note:
				t.Errorf("blamed although nothing is wrong:\n%s", text(found))
			case row.about != "" && !want.matches(worst):
				t.Errorf("want first %s about %q with %q, got:\n%s", row.level, row.about, row.say, text(found))
			}
			if works := Works(m, "a", "b", found); works != (row.level != Broken) {
				t.Errorf("works: %t", works)
			}
			back := Pair(m, "b", "a")[0]
			if row.about != "a <-> b" && (back.Level != found[0].Level || back.About != found[0].About && row.level != Note) {
				t.Errorf("asked the other way round: %s %s, want %s %s", back.Level, back.About, found[0].Level, found[0].About)
			}
		})
	}
}

func TestEveryFaultIsFound(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			m := healthy()
			f.do(m)
			found := Pair(m, "a", "b")
			if !slices.ContainsFunc(found, f.matches) {
				t.Errorf("want a finding %s about %q with %q, got:\n%s", f.level, f.about, f.words, text(found))
			}
			if f.level == Broken && Works(m, "a", "b", found) {
				t.Errorf("the pair is said to work although it is broken:\n%s", text(found))
			}
		})
	}
}

func (f fault) matches(got Finding) bool {
	return got.Level == f.level && got.About == f.about && !slices.ContainsFunc(f.words, func(w string) bool { return !strings.Contains(got.Text, w) })
}

// TestHealthyPairHasOnlyNotes : nothing is blamed where nothing is wrong.
func TestHealthyPairHasOnlyNotes(t *testing.T) {
	m := healthy()
	found := Pair(m, "a", "b")
	for _, f := range found {
		if f.Level != Note {
			t.Errorf("found in a healthy pair: %s %s: %s", f.Level, f.About, f.Text)
		}
	}
	if !Works(m, "a", "b", found) {
		t.Error("a healthy pair is said not to work")
	}
}

// TestOneFaultDoesNotHideAnother puts two faults at random into one mesh: what each shows alone,
// they must show together, unless one takes away what the other is about.
func TestOneFaultDoesNotHideAnother(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	independent := func(f fault) bool {
		return strings.Contains(f.name, "agent") || strings.Contains(f.name, "MTU") || strings.Contains(f.name, "family") ||
			strings.Contains(f.name, "connected") || f.name == "node not ready" || f.name == "stale handshake"
	}
	for range 500 {
		one, two := faults[random.IntN(len(faults))], faults[random.IntN(len(faults))]
		if !independent(one) || !independent(two) || one.about == two.about {
			continue
		}
		m := healthy()
		one.do(m)
		two.do(m)
		found := Pair(m, "a", "b")
		for _, f := range []fault{one, two} {
			if !slices.ContainsFunc(found, f.matches) {
				t.Fatalf("%q with %q: the former is not told any more:\n%s", f.name, one.name+" and "+two.name, text(found))
			}
		}
	}
}

// TestWorstFirst : the first line on the screen is the one that matters.
func TestWorstFirst(t *testing.T) {
	m := healthy()
	for _, f := range faults {
		if f.name == "MTU differs" || f.name == "no key" || f.name == "no agent" {
			f.do(m)
		}
	}
	found := Pair(m, "a", "b")
	if !slices.IsSortedFunc(found, func(a, b Finding) int { return int(a.Level) - int(b.Level) }) || found[0].Level != Broken {
		t.Errorf("not in the order of weight:\n%s", text(found))
	}
}

func TestSameNode(t *testing.T) {
	if found := Pair(healthy(), "a", "a"); len(found) != 1 || found[0].Level != Note {
		t.Errorf("one node with itself: %v", found)
	}
}

func text(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		b.WriteString(f.Level.String() + " " + f.About + ": " + f.Text + "\n")
	}
	return b.String()
}
