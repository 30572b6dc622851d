//go:build apiserver

package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

// TestLife follows one small cluster through everything that users do to it.
func TestLife(t *testing.T) {
	server := apiserver.Start(t)
	l := &life{client: apiserver.Client(t, server.Config), user: operatorUser(t, server), watched: watchOverlaps(t, server.Config)}
	l.stop = runOperator(t, l.user, "first", 3*time.Second)
	t.Run("without a pool the node says so", l.withoutPool)
	t.Run("a pool heals it", l.poolHeals)
	t.Run("exhaustion is told on pool and node, and heals by itself", l.exhaustion)
	t.Run("an overlapping pool is refused", l.overlap)
	t.Run("shrinking is refused and said", l.shrinking)
	t.Run("a spec that somebody edits is put right", l.edited)
	t.Run("the agent's conditions stay", l.conditions)
	t.Run("a restart changes nothing", l.restart)
}

// life is what the steps share. Each goes on where the last one ended.
type life struct {
	client  client.Client
	user    *rest.Config
	watched *overlapWatch
	stop    func()
}

func (l *life) withoutPool(t *testing.T) {
	c := cluster{l.client, t}
	c.node("a", "10.200.0.11", "fd00:c8::11")
	eventually(t, func() error {
		m, err := c.meshNode("a")
		return errors.Join(err, wantCondition(m.Status.Conditions, v1alpha1.ConditionAllocated, metav1.ConditionFalse, "NoPool", m.Generation),
			c.wantEvent("Node", "a", "NoPool"), c.wantEvent("Node", "a", "NoMeshConfig"))
	})
}

func (l *life) poolHeals(t *testing.T) {
	c := cluster{l.client, t}
	c.config()
	c.pool("small", v1alpha1.PoolCIDR{CIDR: "10.244.0.0/23"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:244::/63"})
	c.node("b", "10.200.0.12", "fd00:c8::12")
	eventually(t, func() error { return errors.Join(c.allAllocated(2), c.wantEvent("Node", "a", "Allocated")) })
	m, err := c.meshNode("a")
	if err != nil || !slices.Equal(m.Spec.NodeIPs, []string{"10.200.0.11", "fd00:c8::11"}) {
		t.Errorf("node addresses %v: %v", m.Spec.NodeIPs, err)
	}
	if len(m.OwnerReferences) != 1 || m.OwnerReferences[0].Kind != "Node" || m.OwnerReferences[0].Name != "a" {
		t.Errorf("owners %v", m.OwnerReferences)
	}
	eventually(t, func() error {
		var config v1alpha1.MeshConfig
		err := c.Get(t.Context(), client.ObjectKey{Name: "default"}, &config)
		return errors.Join(err, wantCondition(config.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", config.Generation))
	})
}

func (l *life) exhaustion(t *testing.T) {
	c := cluster{l.client, t}
	c.node("c", "10.200.0.13")
	eventually(t, func() error {
		m, err := c.meshNode("c")
		var pool v1alpha1.IPPool
		return errors.Join(err, c.Get(t.Context(), client.ObjectKey{Name: "small"}, &pool),
			wantCondition(m.Status.Conditions, v1alpha1.ConditionAllocated, metav1.ConditionFalse, "PoolExhausted", m.Generation),
			wantCondition(pool.Status.Conditions, v1alpha1.ConditionExhausted, metav1.ConditionTrue, "PoolExhausted", pool.Generation),
			wantCondition(pool.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse, "PoolExhausted", pool.Generation),
			c.wantEvent("Node", "c", "PoolExhausted"), c.wantEvent("IPPool", "small", "PoolExhausted"))
	})
	c.removeNode("b")
	eventually(t, func() error { return c.allAllocated(2) })
	m, _ := c.meshNode("c")
	if !slices.Equal(m.Spec.PodCIDRs, []string{"10.244.1.0/24", "fd00:10:244:1::/64"}) {
		t.Errorf("the block that came free went to nobody: %v", m.Spec.PodCIDRs)
	}
}

func (l *life) overlap(t *testing.T) {
	c := cluster{l.client, t}
	c.pool("services", v1alpha1.PoolCIDR{CIDR: "10.96.0.0/18"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:96::/64", BlockSize: 80})
	c.pool("nodes", v1alpha1.PoolCIDR{CIDR: "10.200.0.0/16"})
	c.pool("twin", v1alpha1.PoolCIDR{CIDR: "10.244.0.0/16"})
	for _, name := range []string{"services", "nodes", "twin"} {
		eventually(t, func() error {
			var pool v1alpha1.IPPool
			return errors.Join(c.Get(t.Context(), client.ObjectKey{Name: name}, &pool),
				wantCondition(pool.Status.Conditions, v1alpha1.ConditionConflict, metav1.ConditionTrue, "Overlap", pool.Generation),
				c.wantEvent("IPPool", name, "Overlap"))
		})
	}
}

func (l *life) shrinking(t *testing.T) {
	c := cluster{l.client, t}
	eventually(t, func() error {
		var pool v1alpha1.IPPool
		err := c.Get(t.Context(), client.ObjectKey{Name: "small"}, &pool)
		pool.Spec.CIDRs = []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/24"}, {CIDR: "fd00:10:244::/64"}}
		return errors.Join(err, c.Update(t.Context(), &pool))
	})
	eventually(t, func() error {
		var pool v1alpha1.IPPool
		err := c.Get(t.Context(), client.ObjectKey{Name: "small"}, &pool)
		shrunk := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionShrunk)
		if shrunk == nil || shrunk.Status != metav1.ConditionTrue || !strings.Contains(shrunk.Message, "c (10.244.1.0/24)") {
			err = errors.Join(err, fmt.Errorf("condition %+v", shrunk))
		}
		return err
	})
}

func (l *life) edited(t *testing.T) {
	c := cluster{l.client, t}
	before, err := c.meshNode("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.watched.verdict(); err != nil { // before the test itself moves a block
		t.Error(err)
	}
	eventually(t, func() error {
		m, err := c.meshNode("a")
		m.Spec.PodCIDRs = []string{"10.244.1.0/24"} // c's
		m.Spec.MeshIPs = nil
		return errors.Join(err, c.Update(t.Context(), m))
	})
	eventually(t, func() error {
		m, err := c.meshNode("a")
		if !slices.Equal(m.Spec.PodCIDRs, before.Spec.PodCIDRs) || !slices.Equal(m.Spec.MeshIPs, before.Spec.MeshIPs) {
			err = errors.Join(err, fmt.Errorf("a has %v, had %v", m.Spec.PodCIDRs, before.Spec.PodCIDRs))
		}
		return errors.Join(err, c.wantEvent("MeshNode", "a", "DuplicateBlock"))
	})
}

func (l *life) conditions(t *testing.T) {
	c := cluster{l.client, t}
	eventually(t, func() error {
		m, err := c.meshNode("a")
		meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionMeshReady, Status: metav1.ConditionTrue, Reason: "InForce"})
		meta.RemoveStatusCondition(&m.Status.Conditions, v1alpha1.ConditionAllocated)
		return errors.Join(err, c.Status().Update(t.Context(), m))
	})
	eventually(t, func() error {
		m, err := c.meshNode("a")
		return errors.Join(err, wantCondition(m.Status.Conditions, v1alpha1.ConditionAllocated, metav1.ConditionTrue, "Allocated", m.Generation),
			wantCondition(m.Status.Conditions, v1alpha1.ConditionMeshReady, metav1.ConditionTrue, "InForce", 0))
	})
}

func (l *life) restart(t *testing.T) {
	c := cluster{l.client, t}
	l.stop()
	before := c.versions()
	runOperator(t, l.user, "second", 3*time.Second)
	c.pool("more", v1alpha1.PoolCIDR{CIDR: "10.245.0.0/24"})
	c.node("d") // when this one is served, the others have been looked at
	eventually(t, func() error {
		m, err := c.meshNode("d")
		if len(m.Spec.PodCIDRs) != 1 {
			err = errors.Join(err, fmt.Errorf("d has %v", m.Spec.PodCIDRs))
		}
		return err
	})
	after := c.versions()
	for name, version := range before {
		if after[name] != version {
			t.Errorf("%s was at version %s and is at %s", name, version, after[name])
		}
	}
}

// versions of every MeshNode and NodeBlock.
func (c cluster) versions() map[string]string {
	c.t.Helper()
	var nodes v1alpha1.MeshNodeList
	var blocks v1alpha1.NodeBlockList
	if err := errors.Join(c.List(c.t.Context(), &nodes), c.List(c.t.Context(), &blocks)); err != nil {
		c.t.Fatal(err)
	}
	versions := map[string]string{}
	for _, m := range nodes.Items {
		versions["MeshNode "+m.Name] = m.ResourceVersion
	}
	for _, b := range blocks.Items {
		versions["NodeBlock "+b.Name] = b.ResourceVersion
	}
	return versions
}
