package harness

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// zones of the testbed's nodes: the tests of topology want three.
const zones = 3

const controlPlane = "node-role.kubernetes.io/control-plane"

// LabelZones puts the nodes into three zones in turn, by their names. The first loses its label of the
// control plane: Kubernetes writes no topology hints for such nodes, since they take no Pods elsewhere.
func (c *Cluster) LabelZones(ctx context.Context) error {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for i, node := range nodes.Items { // the API server lists by name
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"zone-%d",%q:null}}}`, corev1.LabelTopologyZone, i%zones+1, controlPlane)
		if _, err := c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label node %s: %w", node.Name, err)
		}
	}
	return nil
}
