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
	"path"
	"slices"
	"strings"
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

// deafness holds the news of one kind of object back, once it has begun and until it ends.
type deafness struct {
	resource string
	mu       sync.RWMutex // held while nothing is heard
}

func (d *deafness) config(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return deafWatches{next, d} })
	return config
}

type deafWatches struct {
	http.RoundTripper
	deaf *deafness
}

func (d deafWatches) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.RoundTripper.RoundTrip(request)
	if err == nil && request.URL.Query().Get("watch") == "true" && path.Base(request.URL.Path) == d.deaf.resource {
		response.Body = &deafBody{response.Body, d.deaf}
	}
	return response, err
}

type deafBody struct {
	io.ReadCloser
	deaf *deafness
}

func (b *deafBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.deaf.mu.RLock()
	defer b.deaf.mu.RUnlock()
	return n, err
}

// TestANodeRightBehindAChangeOfThePools : though the operator hears of the node first, it gets no block that the change
// takes from it, and the right one once the news of the change is there.
func TestANodeRightBehindAChangeOfThePools(t *testing.T) {
	server := apiserver.Start(t)
	c := cluster{apiserver.Client(t, server.Config), t}
	c.config()
	c.pool("old", v1alpha1.PoolCIDR{CIDR: "10.244.0.0/16"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:244::/48"})
	c.node("first")
	deaf := &deafness{resource: "ippools"}
	runOperator(t, deaf.config(operatorUser(t, server)), "deaf", time.Minute)
	eventually(t, func() error { return errors.Join(c.allAllocated(1), c.usageTold("old")) })
	deaf.mu.Lock()
	heard := sync.OnceFunc(deaf.mu.Unlock)
	t.Cleanup(heard)
	c.disable("old")
	c.pool("new", v1alpha1.PoolCIDR{CIDR: "10.245.0.0/16"}, v1alpha1.PoolCIDR{CIDR: "fd00:10:245::/48"})
	c.node("second")
	eventually(t, func() error { // its MeshNode comes of the plan that would give it a block
		_, err := c.meshNode("second")
		return err
	})
	// A plan is carried out in this order: by the time that the next node's MeshNode is there, the claims of the one before are.
	c.node("third")
	eventually(t, func() error {
		_, err := c.meshNode("third")
		return err
	})
	heard()
	eventually(t, func() error { return c.allAllocated(3) })
	for _, name := range []string{"second", "third"} {
		m, err := c.meshNode(name)
		if err != nil || !strings.HasPrefix(m.Spec.PodCIDRs[0], "10.245.") || !strings.HasPrefix(m.Spec.PodCIDRs[1], "fd00:10:245:") {
			t.Errorf("node %s has %v (%v), which is not of the new pool", name, m.Spec.PodCIDRs, err)
		}
	}
}

// usageTold : the operator has written the pool's status for the node that is there, and so hears of no more changes of its own.
func (c cluster) usageTold(name string) error {
	var pool v1alpha1.IPPool
	if err := c.Get(c.t.Context(), client.ObjectKey{Name: name}, &pool); err != nil {
		return err
	}
	if len(pool.Status.Usage) == 0 || pool.Status.Usage[0].Allocated != 1 {
		return fmt.Errorf("the usage of pool %s is %+v", name, pool.Status.Usage)
	}
	return nil
}

// disable takes a pool out of use; its nodes keep their blocks.
func (c cluster) disable(name string) {
	c.t.Helper()
	eventually(c.t, func() error {
		var pool v1alpha1.IPPool
		err := c.Get(c.t.Context(), client.ObjectKey{Name: name}, &pool)
		pool.Spec.Disabled = true
		return errors.Join(err, c.Update(c.t.Context(), &pool))
	})
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
