package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/cli/view"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func node(s side) []Finding {
	n := s.mesh.Node(s.name)
	if n == nil {
		return []Finding{s.found(Broken, "see `kubectl get nodes` for the names; a node leaves the mesh with its Node object",
			"the cluster has no Node of this name")}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return []Finding{s.found(Suspect, "look at the kubelet on the node", "its Node is not ready: %s: %s", c.Reason, c.Message)}
		}
	}
	return nil
}

func allocated(s side) []Finding {
	n := s.mesh.MeshNode(s.name)
	switch {
	case n == nil && s.mesh.Node(s.name) == nil:
		return nil
	case n == nil:
		return []Finding{s.found(Broken, "the operator makes it: see its logs",
			"it has no MeshNode, so the operator has not taken it into the mesh yet")}
	case len(n.Spec.PodCIDRs) > 0:
		return nil
	}
	do := "see `kubectl get ippools`; add a range to a pool that selects this node"
	if c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionAllocated); c != nil && c.Status != metav1.ConditionTrue {
		return []Finding{s.found(Broken, do, "it waits for a Pod CIDR: %s: %s%s", c.Reason, c.Message, poolTrouble(s.mesh))}
	}
	return []Finding{s.found(Broken, do, "it waits for a Pod CIDR%s", poolTrouble(s.mesh))}
}

// poolTrouble tells the pools that have any, in brackets.
func poolTrouble(m *view.Mesh) string {
	var told []string
	if len(m.Pools) == 0 {
		told = append(told, "there is no IPPool")
	}
	for i := range m.Pools {
		pool := &m.Pools[i]
		if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status != metav1.ConditionTrue {
			told = append(told, fmt.Sprintf("pool %s is not ready: %s: %s", pool.Name, c.Reason, c.Message))
		}
		if pool.Spec.Disabled {
			told = append(told, fmt.Sprintf("pool %s is disabled", pool.Name))
		}
	}
	if len(told) == 0 {
		return ""
	}
	return " (" + strings.Join(told, "; ") + ")"
}

func agent(s side) []Finding {
	if s.mesh.Node(s.name) == nil {
		return nil
	}
	a, there := s.mesh.Agents[s.name]
	switch {
	case !there:
		return []Finding{s.found(Suspect, "see `kubectl describe daemonset weftnet-agent` in its namespace, and the chart's values agent.nodeSelector and agent.tolerations",
			"no agent Pod runs here: an established mesh goes on without it, but nothing new is learned and no Pod can start")}
	case !a.Ready:
		return []Finding{s.found(Suspect, "see `kubectl logs` and `kubectl describe` of Pod "+a.Pod,
			"its agent is not ready: %s", a.Why)}
	case a.Restarts > 3:
		return []Finding{s.found(Note, "see `kubectl logs --previous` of Pod "+a.Pod, "its agent has restarted %d times", a.Restarts)}
	default:
		return nil
	}
}

// published looks at what the peers need to know of the node.
func published(s side) []Finding {
	n := s.mesh.MeshNode(s.name)
	if n == nil {
		return nil
	}
	var found []Finding
	if n.Status.PublicKey == "" {
		found = append(found, s.found(Broken, "its agent writes it at its first start: see the agent's logs (a key file that cannot be read is an error there, never replaced)",
			"it has published no key"))
	}
	if len(n.Status.Endpoints) == 0 {
		found = append(found, s.found(Broken, "the agent takes them from its Node's addresses: see `kubectl get node "+s.name+" -o wide`",
			"it has published no endpoint, so no peer knows where to send"))
	}
	if n.Status.PublicKey != "" && n.Status.ListenPort == 0 {
		found = append(found, s.found(Broken, "see the agent's logs: the WireGuard device is not up", "it has published no WireGuard port"))
	}
	for _, endpoint := range n.Status.Endpoints {
		if pool := poolOf(s.mesh, endpoint); pool != "" {
			found = append(found, s.found(Broken, "correct the Node's addresses, or move the pool away from the underlay",
				"its endpoint %s lies in IPPool %s: the tunnel would be sent into itself", endpoint, pool))
		}
	}
	return found
}

func poolOf(m *view.Mesh, address string) string {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	for i := range m.Pools {
		for _, r := range m.Pools[i].Spec.CIDRs {
			if prefix, err := netip.ParsePrefix(r.CIDR); err == nil && prefix.Contains(addr) {
				return m.Pools[i].Name
			}
		}
	}
	return ""
}

// conditions tells those of the MeshNode that do not hold, but for what other checks tell better.
func conditions(s side) []Finding {
	n := s.mesh.MeshNode(s.name)
	if n == nil {
		return nil
	}
	elsewhere := []string{v1alpha1.ConditionReady, v1alpha1.ConditionAllocated}
	var found []Finding
	for _, c := range n.Status.Conditions {
		if view.Holds(c) || slices.Contains(elsewhere, c.Type) {
			continue
		}
		level := Suspect
		if c.Type == v1alpha1.ConditionMeshReady {
			level = Broken
		}
		found = append(found, s.found(level, "docs/operations.md lists every reason", "%s is %s: %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return found
}

// operators looks at the operator only when a finding says that its work is missing.
func operators(m *view.Mesh, found []Finding) []Finding {
	missing := slices.ContainsFunc(found, func(f Finding) bool {
		return strings.Contains(f.Text, "no MeshNode") || strings.Contains(f.Text, "waits for a Pod CIDR")
	})
	if !missing || slices.ContainsFunc(m.Operators, func(a view.Agent) bool { return a.Ready }) {
		return nil
	}
	f := Finding{Level: Broken, About: "operator", Do: "see `kubectl logs deployment/weftnet-operator` in its namespace", Text: "no Pod of the operator exists"}
	for _, o := range m.Operators {
		f.Text = fmt.Sprintf("the operator is not ready: %s: %s", o.Pod, o.Why)
	}
	return []Finding{f}
}
