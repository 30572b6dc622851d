//go:build apiserver

package source

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

func TestAgainstARealAPIServer(t *testing.T) {
	server := apiserver.Start(t)
	client := apiserver.Client(t, server.Config)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := New(Config{Node: "node1", REST: server.Config, Log: slog.New(slog.DiscardHandler),
		Cache: cache.Cache{Path: filepath.Join(t.TempDir(), "peers.json"), Self: "node1"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })

	waitFor(t, s, "complete and empty", func(n snapshot.Snapshot) bool { return !n.Partial && len(n.Nodes) == 0 })
	first := meshNode(1)
	first.CreationTimestamp, first.Status = metav1.Time{}, v1alpha1.MeshNodeStatus{}
	if err := client.Create(ctx, first); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "one node", func(n snapshot.Snapshot) bool { return len(n.Nodes) == 1 && len(n.Nodes[0].PodCIDRs) == 2 })
	config := &v1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.MeshConfigName}, Spec: v1alpha1.MeshConfigSpec{MTU: 1380}}
	p := pool()
	p.Spec.Disabled = false
	node := kubeNode("192.0.2.1")
	status := node.Status
	if err := errorOf(client.Create(ctx, config), client.Create(ctx, p), client.Create(ctx, node)); err != nil {
		t.Fatal(err)
	}
	node.Status = status
	p.Status = pool().Status
	if err := errorOf(client.Status().Update(ctx, node), client.Status().Update(ctx, p)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "settings, pool and node address", func(n snapshot.Snapshot) bool {
		return n.Config.MTU == 1380 && n.Config.Keepalive == 25*time.Second && len(n.Pools) == 1 && len(n.Pools[0].CIDRs) == 2 && len(n.InternalIPs) == 1
	})
	if err := client.Delete(ctx, config); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "default settings again", func(n snapshot.Snapshot) bool { return n.Config.MTU == 0 })
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func waitFor(t *testing.T, s *Source, what string, ok func(snapshot.Snapshot) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if snap, known := s.Snapshot(); known && ok(snap) {
			return
		}
		select {
		case <-s.Changed():
		case <-deadline:
			snap, _ := s.Snapshot()
			t.Fatalf("waited for %s, have %+v", what, snap)
		}
	}
}
