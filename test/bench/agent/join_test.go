//go:build linux && bench

package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/bench/lab"
)

// joinLimit bounds one join.
const joinLimit = 30 * time.Second

// join starts a node, measures, and removes it again. Times are in milliseconds.
func join(t *testing.T, l *lab.Lab, residents []*lab.Node, number int) (published float64, connected []float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), joinLimit)
	defer cancel()
	if err := l.Allocate(ctx, number); err != nil {
		t.Fatal(err)
	}
	watching, err := l.Client.Watch(ctx, &v1alpha1.MeshNodeList{}, &client.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", lab.Name(number))})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Stop()
	node := l.NewNode(t, number)
	started := time.Now()
	node.Start(t)
	var key state.PublicKey
	for event := range watching.ResultChan() {
		m, ok := event.Object.(*v1alpha1.MeshNode)
		if !ok || m.Status.PublicKey == "" || len(m.Status.Endpoints) == 0 {
			continue
		}
		if key, err = state.ParsePublicKey(m.Status.PublicKey); err != nil {
			t.Fatal(err)
		}
		break
	}
	at := time.Now()
	if ctx.Err() != nil {
		t.Fatalf("%s published nothing within %v", lab.Name(number), joinLimit)
	}
	connected = handshakes(ctx, t, residents, key, at)
	node.Stop(t)
	if err := l.Remove(ctx, number); err != nil {
		t.Fatal(err)
	}
	for _, r := range residents {
		if err := until(ctx, r, func(all map[state.PublicKey]time.Time) bool { _, there := all[key]; return !there }); err != nil {
			t.Fatalf("wait for node %d to forget %s: %v", r.Number, lab.Name(number), err)
		}
	}
	return milliseconds(at.Sub(started)), connected
}

// handshakes waits for each resident's handshake with a key and gives the times from the given one. The
// time of a handshake is the one that WireGuard notes, so that how often is looked does not matter. A
// later handshake would be a later time: in the first two minutes there is none.
func handshakes(ctx context.Context, t *testing.T, residents []*lab.Node, key state.PublicKey, from time.Time) (out []float64) {
	t.Helper()
	for _, r := range residents {
		err := until(ctx, r, func(all map[state.PublicKey]time.Time) bool {
			shaken := all[key]
			if !shaken.IsZero() {
				out = append(out, milliseconds(shaken.Sub(from)))
			}
			return !shaken.IsZero()
		})
		if err != nil {
			t.Fatalf("wait for the handshake of node %d: %v", r.Number, err)
		}
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// until looks at a node's handshakes until they are as wanted.
func until(ctx context.Context, node *lab.Node, ok func(map[state.PublicKey]time.Time) bool) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		all, err := node.Handshakes()
		if err != nil {
			return err
		}
		if ok(all) {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the limit of %v: %w", joinLimit, ctx.Err())
		}
	}
}
