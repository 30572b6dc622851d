package controllers

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// snapshot is what was seen: the input of the plan, and the objects behind it. These belong to the
// caches: whoever changes one copies it first.
type snapshot struct {
	input      plan.Input
	nodes      map[string]*corev1.Node
	meshNodes  map[string]*v1alpha1.MeshNode
	pools      map[string]*v1alpha1.IPPool
	nodeBlocks map[netip.Prefix]*v1alpha1.NodeBlock
}

// lists are everything that is read.
type lists struct {
	nodes      corev1.NodeList
	meshNodes  v1alpha1.MeshNodeList
	pools      v1alpha1.IPPoolList
	nodeBlocks v1alpha1.NodeBlockList
	configs    v1alpha1.MeshConfigList
	services   networkingv1.ServiceCIDRList
}

// gather reads the caches, without copying what is in them. The Nodes come last, so that a claim
// is not taken for abandoned because its node came a moment ago.
func (r *allocationReconciler) gather(ctx context.Context) (*snapshot, error) {
	var l lists
	all := []client.ObjectList{&l.nodeBlocks, &l.meshNodes, &l.pools, &l.configs}
	if r.hasServices {
		all = append(all, &l.services)
	}
	for _, list := range append(all, &l.nodes) {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list %T: %w", list, err)
		}
	}
	s := &snapshot{
		nodes:      make(map[string]*corev1.Node, len(l.nodes.Items)),
		meshNodes:  make(map[string]*v1alpha1.MeshNode, len(l.meshNodes.Items)),
		pools:      make(map[string]*v1alpha1.IPPool, len(l.pools.Items)),
		nodeBlocks: make(map[netip.Prefix]*v1alpha1.NodeBlock, len(l.nodeBlocks.Items)),
	}
	s.input.Cooldown = r.cooldown
	selectors := s.readPools(l.pools.Items)
	s.readNodes(l.nodes.Items, selectors)
	s.readMeshNodes(l.meshNodes.Items)
	s.input.Blocks = r.blocks.read(s, l.nodeBlocks.Items, r.now())
	for i := range l.configs.Items {
		s.input.HasConfig = s.input.HasConfig || l.configs.Items[i].Name == v1alpha1.MeshConfigName
	}
	for i := range l.services.Items {
		s.input.Services = append(s.input.Services, parseAll(l.services.Items[i].Spec.CIDRs, netip.ParsePrefix)...)
	}
	return s, nil
}

// readPools also gives the selector of every pool that has a good one.
func (s *snapshot) readPools(items []v1alpha1.IPPool) map[string]labels.Selector {
	selectors := make(map[string]labels.Selector, len(items))
	for i := range items {
		object := &items[i]
		s.pools[object.Name] = object
		pool := plan.Pool{Name: object.Name, Created: object.CreationTimestamp.Unix(), Disabled: object.Spec.Disabled}
		accepted := make(map[string]bool, len(object.Status.Usage))
		for _, usage := range object.Status.Usage {
			accepted[usage.CIDR] = usage.Refused == ""
		}
		for _, c := range object.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(c.CIDR)
			if err != nil {
				pool.Invalid = fmt.Sprintf("%s is not a range of addresses", c.CIDR)
				continue
			}
			pool.Ranges = append(pool.Ranges, plan.Range{CIDR: prefix, BlockSize: blockSize(c, prefix), Accepted: accepted[c.CIDR]})
		}
		selector := labels.Everything()
		if object.Spec.NodeSelector != nil {
			var err error
			if selector, err = metav1.LabelSelectorAsSelector(object.Spec.NodeSelector); err != nil {
				pool.Invalid = fmt.Sprintf("nodeSelector: %v", err)
				selector = labels.Nothing()
			}
		}
		selectors[object.Name] = selector
		s.input.Pools = append(s.input.Pools, pool)
	}
	return selectors
}

// blockSize fills in the default.
func blockSize(c v1alpha1.PoolCIDR, prefix netip.Prefix) int {
	switch {
	case c.BlockSize != 0:
		return int(c.BlockSize)
	case prefix.Addr().Is4():
		return v1alpha1.DefaultBlockSizeIPv4
	default:
		return v1alpha1.DefaultBlockSizeIPv6
	}
}

func (s *snapshot) readNodes(items []corev1.Node, selectors map[string]labels.Selector) {
	s.input.Nodes = make([]plan.Node, 0, len(items))
	for i := range items {
		object := &items[i]
		s.nodes[object.Name] = object
		node := plan.Node{Name: object.Name, UID: string(object.UID)}
		for _, a := range object.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				node.Addresses = append(node.Addresses, addr.Unmap().WithZone(""))
			}
		}
		for name, selector := range selectors {
			if selector.Matches(labels.Set(object.Labels)) {
				node.Pools = append(node.Pools, name)
			}
		}
		s.input.Nodes = append(s.input.Nodes, node)
	}
}

func (s *snapshot) readMeshNodes(items []v1alpha1.MeshNode) {
	s.input.MeshNodes = make([]plan.MeshNode, 0, len(items))
	for i := range items {
		object := &items[i]
		s.meshNodes[object.Name] = object
		m := plan.MeshNode{
			Name: object.Name, OwnerUID: ownerUID(object), Created: object.CreationTimestamp.Unix(),
			PodCIDRs:  parseAll(object.Spec.PodCIDRs, netip.ParsePrefix),
			MeshIPs:   parseAll(object.Spec.MeshIPs, netip.ParseAddr),
			NodeIPs:   parseAll(object.Spec.NodeIPs, netip.ParseAddr),
			Allocated: allocated(object),
		}
		texts := len(object.Spec.PodCIDRs) + len(object.Spec.MeshIPs) + len(object.Spec.NodeIPs)
		m.Malformed = texts != len(m.PodCIDRs)+len(m.MeshIPs)+len(m.NodeIPs)
		s.input.MeshNodes = append(s.input.MeshNodes, m)
	}
}

// ownerUID is that of the Node by which the object is owned.
func ownerUID(object *v1alpha1.MeshNode) string {
	for _, owner := range object.OwnerReferences {
		if owner.Kind == "Node" && owner.APIVersion == "v1" && owner.Name == object.Name {
			return string(owner.UID)
		}
	}
	return ""
}

// allocated is the operator's condition as it stands in the object. One about an older generation
// counts as none, so that it is written again.
func allocated(object *v1alpha1.MeshNode) plan.Condition {
	c := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionAllocated)
	if c == nil || c.ObservedGeneration != object.Generation {
		return plan.Condition{}
	}
	return plan.Condition{True: c.Status == metav1.ConditionTrue, Reason: plan.Reason(c.Reason), Message: c.Message}
}

// parseAll leaves out what cannot be read.
func parseAll[T any](texts []string, parse func(string) (T, error)) []T {
	values := make([]T, 0, len(texts))
	for _, text := range texts {
		if v, err := parse(text); err == nil {
			values = append(values, v)
		}
	}
	return values
}
