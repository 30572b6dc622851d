package controllers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

func newSnapshot() *snapshot {
	return &snapshot{nodes: map[string]*corev1.Node{}, meshNodes: map[string]*v1alpha1.MeshNode{},
		pools: map[string]*v1alpha1.IPPool{}, nodeBlocks: map[netip.Prefix]*v1alpha1.NodeBlock{}}
}

func TestReadPoolsAndNodes(t *testing.T) {
	pool := func(name string, selector *metav1.LabelSelector, ranges ...v1alpha1.PoolCIDR) v1alpha1.IPPool {
		return v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{CIDRs: ranges, NodeSelector: selector}}
	}
	used := pool("everyone", nil, v1alpha1.PoolCIDR{CIDR: "10.244.0.0/16"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:244::/48"}, v1alpha1.PoolCIDR{CIDR: "10.9.0.0/16", BlockSize: 26})
	used.Status.Usage = []v1alpha1.PoolUsage{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48", Refused: "overlaps"}}
	rack := &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "1"}}
	broken := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}
	s := newSnapshot()
	selectors := s.readPools([]v1alpha1.IPPool{used, pool("rack", rack, v1alpha1.PoolCIDR{CIDR: "10.1.0.0/16"}), pool("broken", broken), pool("text", rack, v1alpha1.PoolCIDR{CIDR: "lots"})})

	want := []plan.Range{
		{CIDR: netip.MustParsePrefix("10.244.0.0/16"), BlockSize: 24, Accepted: true},
		{CIDR: netip.MustParsePrefix("fd00:10:244::/48"), BlockSize: 64},
		{CIDR: netip.MustParsePrefix("10.9.0.0/16"), BlockSize: 26},
	}
	if got := s.input.Pools[0].Ranges; !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
	if s.input.Pools[2].Invalid == "" || s.input.Pools[3].Invalid == "" {
		t.Errorf("a broken selector and a broken range pass: %+v", s.input.Pools[2:])
	}

	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"rack": "1"}}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.200.0.11"}, {Type: corev1.NodeInternalIP, Address: "fd00:c8::11"},
		{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeHostName, Address: "a"},
	}
	s.readNodes([]corev1.Node{node}, selectors)
	got := s.input.Nodes[0]
	slices.Sort(got.Pools)
	if !slices.Equal(got.Pools, []string{"everyone", "rack", "text"}) {
		t.Errorf("pools %v", got.Pools)
	}
	if !slices.Equal(got.Addresses, []netip.Addr{netip.MustParseAddr("10.200.0.11"), netip.MustParseAddr("fd00:c8::11")}) {
		t.Errorf("addresses %v", got.Addresses)
	}
}

func TestBlockMemory(t *testing.T) {
	object := func(version string, state v1alpha1.BlockState) []v1alpha1.NodeBlock {
		return []v1alpha1.NodeBlock{{
			ObjectMeta: metav1.ObjectMeta{Name: "fd00-10-244---64", UID: "u", ResourceVersion: version},
			Spec:       v1alpha1.NodeBlockSpec{CIDR: "fd00:10:244::/64", Node: "a"},
			Status:     v1alpha1.NodeBlockStatus{State: state, CooldownLeft: &metav1.Duration{Duration: time.Minute}},
		}}
	}
	m := newBlockMemory()
	start := time.Now()
	observed := func(items []v1alpha1.NodeBlock, after time.Duration) time.Duration {
		blocks := m.read(newSnapshot(), items, start.Add(after))
		if len(blocks) != 1 {
			t.Fatalf("blocks %v", blocks)
		}
		return blocks[0].Observed
	}
	if got := observed(object("1", v1alpha1.BlockCooling), 0); got != 0 {
		t.Errorf("at first sight: %s", got)
	}
	if got := observed(object("1", v1alpha1.BlockCooling), 20*time.Second); got != 20*time.Second {
		t.Errorf("20 s later: %s", got)
	}
	if got := observed(object("2", v1alpha1.BlockCooling), 30*time.Second); got != 0 {
		t.Errorf("after another operator wrote: %s", got)
	}
	if got := observed(object("3", v1alpha1.BlockBound), 40*time.Second); got != 0 || len(m.since) != 0 {
		t.Errorf("bound again: %s, remembered %v", got, m.since)
	}

	claim := plan.Block{CIDR: netip.MustParsePrefix("10.244.0.0/24"), Node: "a"}
	m.created(claim, start)
	if blocks := m.read(newSnapshot(), nil, start.Add(time.Second)); len(blocks) != 1 || !blocks[0].Pending {
		t.Errorf("a claim that the cache has not shown: %v", blocks)
	}
	shown := []v1alpha1.NodeBlock{{ObjectMeta: metav1.ObjectMeta{Name: "10.244.0.0-24"}, Spec: v1alpha1.NodeBlockSpec{CIDR: "10.244.0.0/24", Node: "a"}}}
	if blocks := m.read(newSnapshot(), shown, start.Add(2*time.Second)); len(blocks) != 1 || blocks[0].Pending {
		t.Errorf("a claim that the cache shows: %v", blocks)
	}
	if blocks := m.read(newSnapshot(), nil, start.Add(3*time.Second)); len(blocks) != 0 {
		t.Errorf("a claim that went: %v", blocks)
	}
	m.created(claim, start)
	if blocks := m.read(newSnapshot(), nil, start.Add(forgetPending+time.Second)); len(blocks) != 0 {
		t.Errorf("a claim that never came: %v", blocks)
	}
}

func TestJudgeConfig(t *testing.T) {
	config := func(name string, mtu int32, cidrs ...string) *v1alpha1.MeshConfig {
		return &v1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.MeshConfigSpec{MTU: mtu, NoMasqueradeCIDRs: cidrs}}
	}
	tests := []struct {
		config *v1alpha1.MeshConfig
		want   plan.Reason
	}{
		{config("default", 0), plan.ReasonReady},
		{config("default", 1400, "192.168.0.0/16", "2001:db8::/32"), plan.ReasonReady},
		{config("other", 0), reasonNotRead},
		{config("default", 576), plan.ReasonInvalid},
		{config("default", 0, "192.168.1.1/16"), plan.ReasonInvalid},
	}
	for _, tt := range tests {
		if got := judgeConfig(tt.config); got.Reason != tt.want || got.True != (tt.want == plan.ReasonReady) || got.Message == "" {
			t.Errorf("%s %+v: %+v, want %s", tt.config.Name, tt.config.Spec, got, tt.want)
		}
	}
}

func TestRefusalsAreNoFailures(t *testing.T) {
	resource := schema.GroupResource{Group: "weftnet.io", Resource: "nodeblocks"}
	refused := []error{
		apierrors.NewConflict(resource, "b", errors.New("changed")), apierrors.NewAlreadyExists(resource, "b"),
		apierrors.NewNotFound(resource, "b"), errStale,
	}
	for _, err := range refused {
		if !isRefusal(fmt.Errorf("write: %w", err)) {
			t.Errorf("%v counts as a failure", err)
		}
	}
	down := errors.New("connection refused")
	all := errors.Join(errors.Join(refused[0], fmt.Errorf("write: %w", down)), nil, errors.Join(refused[1:]...))
	kept := each(all, func(err error) bool { return !isRefusal(err) })
	if len(kept) != 1 || !errors.Is(kept[0], down) {
		t.Errorf("failures %v, want %v", kept, down)
	}
}
