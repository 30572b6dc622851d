package overview

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden file anew")

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func sample() *view.Mesh {
	ready := []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready"}}
	waits := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "PoolExhausted", Message: "no block is free"}
	return &view.Mesh{
		Nodes: []corev1.Node{{ObjectMeta: named("tb-node1")}, {ObjectMeta: named("tb-node2")}, {ObjectMeta: named("tb-node3")}},
		MeshNodes: []v1alpha1.MeshNode{
			{ObjectMeta: named("tb-node1"), Spec: v1alpha1.MeshNodeSpec{PodCIDRs: []string{"10.244.0.0/24", "fd00:10:244::/64"}},
				Status: v1alpha1.MeshNodeStatus{Backend: v1alpha1.BackendUserspace, Endpoints: []string{"10.200.0.11", "fd00:c8::11"}, MTU: 1420,
					Peers: v1alpha1.PeerSummary{Expected: 1, Connected: 1}, Conditions: ready}},
			{ObjectMeta: named("tb-node2"), Status: v1alpha1.MeshNodeStatus{Conditions: []metav1.Condition{waits}}},
		},
		Pools: []v1alpha1.IPPool{{ObjectMeta: named("default"),
			Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48"}}},
			Status: v1alpha1.IPPoolStatus{Usage: []v1alpha1.PoolUsage{{CIDR: "10.244.0.0/16", Allocated: 1, Free: 255}},
				Conditions: append(ready, metav1.Condition{Type: v1alpha1.ConditionExhausted, Status: metav1.ConditionTrue, Reason: "PoolExhausted", Message: "tb-node2 waits"},
					metav1.Condition{Type: v1alpha1.ConditionConflict, Status: metav1.ConditionFalse, Reason: "NoOverlap"})}}},
		Agents:    map[string]view.Agent{"tb-node1": {Pod: "w/a1", Ready: true}, "tb-node2": {Pod: "w/a2", Why: "waits for its Pod CIDRs"}},
		Unasked:   map[string]view.Unasked{"tb-node2": {Why: "no answer within 3s"}},
		Operators: []view.Agent{{Pod: "w/o1", Ready: true}, {Pod: "w/o2", Why: "ImagePullBackOff"}},
		Links:     map[string]map[string]view.Link{"tb-node1": {"x": {Handshake: 90 * time.Second}, "y": {Handshake: 12 * time.Second}, "z": {Handshake: -1}}},
	}
}

func TestWrite(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, sample()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/status.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/status.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestHealthyMeshHasNoTroubles(t *testing.T) {
	m := sample()
	m.Nodes, m.MeshNodes, m.Operators = m.Nodes[:1], m.MeshNodes[:1], m.Operators[:1]
	m.Pools[0].Status.Conditions = m.Pools[0].Status.Conditions[:1]
	delete(m.Agents, "tb-node2")
	delete(m.Unasked, "tb-node2")
	if lines := Troubles(m); len(lines) != 0 {
		t.Errorf("got %q", lines)
	}
}

// TestAgentThatDoesNotAnswer : a node may look well in every condition and its agent hang.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	healthy := func() *view.Mesh {
		m := sample()
		m.Nodes, m.MeshNodes, m.Pools, m.Operators = m.Nodes[:1], m.MeshNodes[:1], nil, nil
		m.Agents = map[string]view.Agent{"tb-node1": {Pod: "w/a1", Ready: true}}
		m.Links, m.Unasked = map[string]map[string]view.Link{}, map[string]view.Unasked{}
		return m
	}
	for name, test := range map[string]struct {
		unasked view.Unasked
		ready   bool
		trouble string
		column  string
		says    string
	}{
		"hangs":            {view.Unasked{Why: "no answer within 3s"}, true, "agent w/a1 on tb-node1: it does not answer: no answer within 3s", "no answer", "! agent w/a1"},
		"hangs, not ready": {view.Unasked{Why: "no answer within 3s"}, false, "agent w/a1 on tb-node1: its probe fails; it does not answer: no answer within 3s", "no answer", "! agent w/a1"},
		"may not be asked": {view.Unasked{Why: "you may not ask", Forbidden: true}, true, "", "unknown", "handshakes are not known: you may not ask"},
	} {
		t.Run(name, func(t *testing.T) {
			m := healthy()
			m.Unasked["tb-node1"] = test.unasked
			if !test.ready {
				m.Agents["tb-node1"] = view.Agent{Pod: "w/a1", Why: "its probe fails"}
			}
			var b strings.Builder
			if err := Write(&b, m); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(Troubles(m), "\n"); got != test.trouble {
				t.Errorf("troubles: %q, want %q", got, test.trouble)
			}
			if !strings.Contains(b.String(), test.column) || !strings.Contains(b.String(), test.says) {
				t.Errorf("want %q and %q in\n%s", test.column, test.says, b.String())
			}
		})
	}
}
