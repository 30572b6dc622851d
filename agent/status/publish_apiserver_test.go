//go:build apiserver

package status

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/source"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

type noSource struct{}

func (noSource) Snapshot() (snapshot.Snapshot, bool) { return snapshot.Snapshot{}, false }

func TestPublishToARealAPIServer(t *testing.T) {
	server := apiserver.Start(t)
	api := apiserver.Client(t, server.Config)
	weftnet, err1 := source.NewClient(server.Config, v1alpha1.GroupVersion)
	events, err2 := source.NewClient(server.Config, eventsv1.SchemeGroupVersion)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	loop := &fixedLoop{report(2)}
	publisher := func() *Publisher {
		return NewPublisher(Config{Node: "node1", Loop: loop, Source: noSource{}, Weftnet: weftnet, Events: events, Log: slog.New(slog.DiscardHandler)})
	}
	p, ctx := publisher(), t.Context()

	if _, err := p.publish(ctx, now); err == nil {
		t.Fatal("there is no MeshNode, and that is no error")
	}
	node := &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: v1alpha1.MeshNodeSpec{PodCIDRs: []string{"10.244.1.0/24"}, MeshIPs: []string{"10.244.1.1"}}}
	if err := api.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	allocated(t, ctx, api)

	mustPublish(t, p, now)
	got := read(t, ctx, api)
	if got.Status.PublicKey != key(1).String() || got.Status.MTU != 1440 || got.Status.Peers.Connected != 2 || len(got.Status.Conditions) != 4 {
		t.Errorf("status %+v", got.Status)
	}
	if got.Spec.PodCIDRs[0] != "10.244.1.0/24" {
		t.Errorf("the spec changed to %+v", got.Spec)
	}

	// Nothing new, also for an agent that has just started: nothing is written.
	mustPublish(t, p, now.Add(time.Minute))
	mustPublish(t, publisher(), now.Add(2*time.Minute))
	if again := read(t, ctx, api); again.ResourceVersion != got.ResourceVersion {
		t.Errorf("the object was written again without need: %+v", again.Status)
	}

	loop.r.Plan.Own.Endpoints = loop.r.Plan.Own.Endpoints[:1]
	mustPublish(t, p, now.Add(3*time.Minute))
	if moved := read(t, ctx, api); len(moved.Status.Endpoints) != 1 || len(moved.Status.Conditions) != 4 {
		t.Errorf("status %+v", moved.Status)
	}

	// Deleted and made anew by the operator: everything is published again.
	if err := api.Delete(ctx, node); err != nil {
		t.Fatal(err)
	}
	loop.r.Plan.Own.MTU = 1400
	if _, err := p.publish(ctx, now.Add(4*time.Minute)); err == nil {
		t.Error("the MeshNode is gone, and that is no error")
	}
	node.ResourceVersion, node.UID = "", ""
	if err := api.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, p, now.Add(5*time.Minute))
	if got := read(t, ctx, api); got.Status.MTU != 1400 || got.Status.PublicKey == "" {
		t.Errorf("status %+v", got.Status)
	}

	// Edited by somebody else, and deleted and made anew while nothing of the agent's own changes: written again,
	// once the watch has told of it, and not before.
	watch := &fixedSource{}
	p.cfg.Source = watch
	edited := read(t, ctx, api)
	edited.Status.Endpoints, edited.Status.ListenPort = []string{"203.0.113.9"}, 1
	if err := api.Status().Update(ctx, edited); err != nil {
		t.Fatal(err)
	}
	watch.set(read(t, ctx, api))
	mustPublish(t, p, now.Add(5*time.Minute+time.Second))
	if got := read(t, ctx, api); got.Status.ListenPort != 1 {
		t.Errorf("written again within the lag of the watch: %+v", got.Status)
	}
	mustPublish(t, p, now.Add(5*time.Minute+5*time.Second))
	if got := read(t, ctx, api); got.Status.ListenPort != 51820 || got.Status.Endpoints[0] != "192.0.2.1" {
		t.Errorf("an edited status stays: %+v", got.Status)
	}
	if err := api.Delete(ctx, node); err != nil {
		t.Fatal(err)
	}
	node.ResourceVersion, node.UID = "", ""
	if err := api.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	watch.set(read(t, ctx, api))
	mustPublish(t, p, now.Add(5*time.Minute+10*time.Second))
	if got := read(t, ctx, api); got.Status.PublicKey == "" {
		t.Errorf("the status of a MeshNode made anew stays empty: %+v", got.Status)
	}
	p.cfg.Source = noSource{}

	// Every agent finds the same problem, and one event tells of it.
	loop.r.Plan.Problems = []mesh.Problem{{Kind: mesh.KindMeshNode, Name: "node7", Reason: mesh.ReasonOverlap, Message: "podCIDRs: 10.244.1.0/24 overlaps a block of node node1"}}
	mustPublish(t, p, now.Add(6*time.Minute))
	mustPublish(t, p, now.Add(7*time.Minute))
	mustPublish(t, publisher(), now.Add(7*time.Minute))
	var list eventsv1.EventList
	if err := api.List(ctx, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Regarding.Name != "node7" || list.Items[0].Reason != mesh.ReasonOverlap {
		t.Errorf("events %+v", list.Items)
	}
}

// fixedSource knows the MeshNode of node1 as it was last set.
type fixedSource struct{ snap snapshot.Snapshot }

func (s *fixedSource) Snapshot() (snapshot.Snapshot, bool) { return s.snap, true }

func (s *fixedSource) set(n *v1alpha1.MeshNode) {
	s.snap = snapshot.Snapshot{Self: "node1", Nodes: []snapshot.Node{{
		Name: "node1", PublicKey: n.Status.PublicKey, KeyEpoch: n.Status.KeyEpoch, Endpoints: n.Status.Endpoints,
		ListenPort: n.Status.ListenPort, MTU: n.Status.MTU, NATPeers: n.Status.NATPeers,
	}}}
}

func mustPublish(t *testing.T, p *Publisher, at time.Time) {
	t.Helper()
	stats := p.cfg.Loop.(*fixedLoop).r.Facts.Peers
	for k, s := range stats { // time goes on and the peers stay connected
		s.LastHandshake = at
		stats[k] = s
	}
	if _, err := p.publish(t.Context(), at); err != nil {
		t.Fatal(err)
	}
}

// allocated is what the operator writes.
func allocated(t *testing.T, ctx context.Context, api client.Client) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "MeshNode", "metadata": map[string]any{"name": "node1"},
		"status": map[string]any{"conditions": []metav1.Condition{{Type: v1alpha1.ConditionAllocated, Status: metav1.ConditionTrue, Reason: "Allocated", LastTransitionTime: metav1.NewTime(now)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	target := &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	if err := api.Status().Patch(ctx, target, client.RawPatch(types.ApplyPatchType, body), client.FieldOwner("weftnet-operator"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, ctx context.Context, api client.Client) *v1alpha1.MeshNode {
	t.Helper()
	var n v1alpha1.MeshNode
	if err := api.Get(ctx, client.ObjectKey{Name: "node1"}, &n); err != nil {
		t.Fatal(err)
	}
	return &n
}
