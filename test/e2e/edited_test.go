//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
)

// patchMeshNode edits a MeshNode as a tired administrator would.
func patchMeshNode(t *testing.T, name, patch string, status bool) error {
	t.Helper()
	node := &v1alpha1.MeshNode{}
	node.Name = name
	raw := client.RawPatch(types.MergePatchType, []byte(patch))
	if status {
		return cluster.Mesh.Status().Patch(t.Context(), node, raw)
	}
	return cluster.Mesh.Patch(t.Context(), node, raw)
}

// awaitMeshNode waits until a MeshNode says again what it said before somebody edited it.
func awaitMeshNode(t *testing.T, before *v1alpha1.MeshNode, what string) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, what+" is put right", func(ctx context.Context) error {
		var now v1alpha1.MeshNode
		if err := cluster.Mesh.Get(ctx, client.ObjectKey{Name: before.Name}, &now); err != nil {
			return err
		}
		same := identityOf(&now) == identityOf(before) && slices.Equal(now.Spec.NodeIPs, before.Spec.NodeIPs) &&
			slices.Equal(now.Status.Endpoints, before.Status.Endpoints) && now.Status.ListenPort == before.Status.ListenPort
		if !same {
			return fmt.Errorf("it is %+v with endpoints %q, port %d", identityOf(&now), now.Status.Endpoints, now.Status.ListenPort)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// awaitPairs waits until every Pod reaches every Pod: peers follow what a MeshNode says, wrong as it may be, and
// come back when it is right again.
func awaitPairs(t *testing.T) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, "every pair talks", func(ctx context.Context) error {
		for from := range probes.Pods {
			for to := range probes.Pods {
				if err := answered(ctx, from, to); from != to && err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestMeshNodeEditedByHand : what somebody writes into a MeshNode is refused where it cannot be meant, and put right
// otherwise, by the operator (spec) and by the node's agent (status). A node whose MeshNode is deleted is itself again.
func TestMeshNodeEditedByHand(t *testing.T) {
	const name = "tb-node2"
	before := meshNode(t, name)
	other := meshNode(t, "tb-node3")

	for what, patch := range map[string]string{
		"an address that is none":     `{"spec":{"meshIPs":["10.244.one.1"]}}`,
		"an address outside of it":    `{"spec":{"meshIPs":["192.0.2.1"]}}`,
		"a block that is no range":    `{"spec":{"podCIDRs":["10.244.1.7/24"]}}`,
		"a node address in the block": fmt.Sprintf(`{"spec":{"nodeIPs":[%q]}}`, before.Spec.MeshIPs[0]),
	} {
		if err := patchMeshNode(t, name, patch, false); !apierrors.IsInvalid(err) {
			t.Errorf("%s was not refused: %v", what, err)
		}
	}
	if err := patchMeshNode(t, name, `{"status":{"publicKey":"none of your business"}}`, true); !apierrors.IsInvalid(err) {
		t.Errorf("a key that is none was not refused: %v", err)
	}

	t.Run("another node's block", func(t *testing.T) {
		patch := fmt.Sprintf(`{"spec":{"podCIDRs":[%q],"meshIPs":[%q]}}`, other.Spec.PodCIDRs[0], other.Spec.MeshIPs[0])
		mustEdit(t, patchMeshNode(t, name, patch, false))
		awaitMeshNode(t, before, "the spec")
		awaitEvent(t, "MeshNode", name, "SpecRepaired")
		awaitPairs(t)
	})
	t.Run("no block at all", func(t *testing.T) {
		mustEdit(t, patchMeshNode(t, name, `{"spec":null}`, false))
		awaitMeshNode(t, before, "the spec")
		awaitPairs(t)
	})
	t.Run("endpoints and port", func(t *testing.T) {
		mustEdit(t, patchMeshNode(t, name, `{"status":{"endpoints":["203.0.113.9"],"listenPort":9}}`, true))
		awaitMeshNode(t, before, "the status")
		awaitPairs(t)
	})
	t.Run("another node's key", func(t *testing.T) {
		mustEdit(t, patchMeshNode(t, name, fmt.Sprintf(`{"status":{"publicKey":%q}}`, other.Status.PublicKey), true))
		awaitMeshNode(t, before, "the status")
		awaitPairs(t)
	})
	t.Run("deleted", func(t *testing.T) {
		if err := cluster.Mesh.Delete(t.Context(), before.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		awaitMeshNode(t, before, "the MeshNode")
		awaitPairs(t)
	})
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
	checkAllPairs(t)
}

func mustEdit(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
