//go:build apiserver

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

// lagging is a configuration whose watches bring the news late, each kind of object by another time:
// the caches of two operators then differ as they may in a bad hour.
func lagging(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return lateWatches{next} })
	return config
}

type lateWatches struct{ http.RoundTripper }

func (l lateWatches) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(request)
	if err == nil && request.URL.Query().Get("watch") == "true" {
		response.Body = &lateBody{ReadCloser: response.Body, ctx: request.Context()}
	}
	return response, err
}

// lateBody holds the news back for a while, lets what has come together pass, and so on.
type lateBody struct {
	io.ReadCloser
	ctx  context.Context
	open time.Time // until when it lets pass
}

func (b *lateBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	some := func() time.Duration { return time.Duration(rand.Int64N(int64(500 * time.Millisecond))) }
	if time.Now().After(b.open) {
		select {
		case <-b.ctx.Done():
		case <-time.After(some()):
		}
		b.open = time.Now().Add(some() / 2)
	}
	return n, err
}

// overlapWatch follows every change of every MeshNode, in order, and notes when two have one block.
type overlapWatch struct {
	mu       sync.Mutex
	blocks   map[string][]netip.Prefix
	moved    []string
	overlaps []string
	changes  int
}

func watchOverlaps(t *testing.T, config *rest.Config) *overlapWatch {
	t.Helper()
	c, err := client.NewWithWatch(config, client.Options{Scheme: apiserver.Scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Watch(t.Context(), &v1alpha1.MeshNodeList{})
	if err != nil {
		t.Fatal(err)
	}
	w := &overlapWatch{blocks: map[string][]netip.Prefix{}}
	t.Cleanup(stream.Stop)
	go func() {
		for event := range stream.ResultChan() {
			w.see(event)
		}
	}()
	return w
}

func (w *overlapWatch) see(event watch.Event) {
	m, ok := event.Object.(*v1alpha1.MeshNode)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes++
	if event.Type == watch.Deleted {
		delete(w.blocks, m.Name)
		return
	}
	var blocks []netip.Prefix
	for _, text := range m.Spec.PodCIDRs {
		blocks = append(blocks, netip.MustParsePrefix(text))
	}
	for _, old := range w.blocks[m.Name] {
		if !slices.Contains(blocks, old) {
			w.moved = append(w.moved, fmt.Sprintf("%s lost %s", m.Name, old))
		}
	}
	for other, theirs := range w.blocks {
		for _, b := range blocks {
			if other != m.Name && slices.ContainsFunc(theirs, b.Overlaps) {
				w.overlaps = append(w.overlaps, fmt.Sprintf("%s of %s and %v of %s", b, m.Name, theirs, other))
			}
		}
	}
	w.blocks[m.Name] = blocks
}

func (w *overlapWatch) verdict() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, text := range w.overlaps {
		errs = append(errs, errors.New("given twice: "+text))
	}
	for _, text := range w.moved {
		errs = append(errs, errors.New("moved: "+text))
	}
	return errors.Join(errs...)
}

// TestTwoOperators lets two operators that both believe they lead give blocks to many nodes that
// come and go, while the size of the blocks changes under them.
func TestTwoOperators(t *testing.T) {
	server := apiserver.Start(t)
	c := cluster{apiserver.Client(t, server.Config), t}
	user := operatorUser(t, server)
	watched := watchOverlaps(t, server.Config)
	t.Cleanup(func() {
		t.Logf("%d changes of MeshNodes seen", watched.changes)
		if err := watched.verdict(); err != nil {
			t.Error(err)
		}
	})
	c.config()
	c.pool("default", v1alpha1.PoolCIDR{CIDR: "10.240.0.0/13"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:244::/48"})
	const nodes = 150
	// The later node comes first by name and so first in the plan: whoever has not seen it yet means
	// to give its block to another.
	name := func(i int) string { return fmt.Sprintf("n%03d", nodes-i) }
	for i := range nodes / 3 {
		c.node(name(i))
	}
	const cooldown = 10 * time.Second
	runOperator(t, lagging(user), "first", cooldown)
	runOperator(t, lagging(user), "second", cooldown)
	for i := nodes / 3; i < nodes; i++ {
		c.node(name(i))
		switch i {
		case nodes / 2:
			c.resize("default", 26, 66)
		case nodes * 3 / 4:
			c.resize("default", 23, 63)
		}
		if i%10 == 0 { // an old one goes, and one of the new comes back at once
			c.removeNode(name(i - nodes/3))
			c.removeNode(name(i))
			c.node(name(i))
		}
	}
	eventually(t, func() error { return errors.Join(c.collect(), c.allAllocated(nodes-nodes*2/3/10)) })
	eventually(t, func() error { return errors.Join(c.collect(), c.noneLeft(nodes-nodes*2/3/10)) })
}

// collect is the garbage collector: it deletes MeshNodes whose Node is gone. (An operator that lags
// behind may make one once more.)
func (c cluster) collect() error {
	var nodes corev1.NodeList
	var meshNodes v1alpha1.MeshNodeList
	if err := errors.Join(c.List(c.t.Context(), &meshNodes), c.List(c.t.Context(), &nodes)); err != nil {
		return err
	}
	for _, m := range meshNodes.Items {
		owned := slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool {
			return slices.ContainsFunc(m.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == n.UID })
		})
		if owned {
			continue
		}
		if err := c.Delete(c.t.Context(), &m, client.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion}); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// resize changes the block sizes of a pool.
func (c cluster) resize(name string, sizes ...int32) {
	c.t.Helper()
	eventually(c.t, func() error {
		var pool v1alpha1.IPPool
		if err := c.Get(c.t.Context(), client.ObjectKey{Name: name}, &pool); err != nil {
			return err
		}
		for i := range pool.Spec.CIDRs {
			pool.Spec.CIDRs[i].BlockSize = sizes[i]
		}
		return c.Update(c.t.Context(), &pool)
	})
}

// noneLeft : blocks of nodes that went have cooled down, none is claimed in vain, and the pool's
// count is that of the records.
func (c cluster) noneLeft(nodes int) error {
	var list v1alpha1.NodeBlockList
	if err := c.List(c.t.Context(), &list); err != nil {
		return err
	}
	if len(list.Items) != 2*nodes {
		return fmt.Errorf("%d NodeBlocks, want %d", len(list.Items), 2*nodes)
	}
	for _, b := range list.Items {
		if b.Status.State != v1alpha1.BlockBound {
			return fmt.Errorf("%s of %s is %q", b.Spec.CIDR, b.Spec.Node, b.Status.State)
		}
	}
	var pool v1alpha1.IPPool
	if err := c.Get(c.t.Context(), client.ObjectKey{Name: "default"}, &pool); err != nil {
		return err
	}
	for _, u := range pool.Status.Usage {
		if u.Allocated != int64(nodes) || u.Cooling != 0 {
			return fmt.Errorf("usage %+v, want %d allocated", u, nodes)
		}
	}
	return nil
}
