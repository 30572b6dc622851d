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
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/controllers"
	"github.com/weftnet/weftnet/test/apiserver"
)

// patience is generous: the machine may be building meanwhile.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// operatorUser may do exactly what the package comment of controllers says.
func operatorUser(t *testing.T, server *apiserver.Server) *rest.Config {
	t.Helper()
	admin := apiserver.Client(t, server.Config)
	rule := func(group, resources, verbs string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Fields(resources), Verbs: strings.Fields(verbs)}
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: controllers.Name}, Rules: []rbacv1.PolicyRule{
		rule("", "nodes", "get list watch"),
		rule("networking.k8s.io", "servicecidrs", "get list watch"),
		rule("weftnet.io", "ippools meshconfigs", "get list watch"),
		rule("weftnet.io", "meshnodes", "get list watch create update"),
		rule("weftnet.io", "nodeblocks", "get list watch create delete"),
		rule("weftnet.io", "meshnodes/status", "patch"),
		rule("weftnet.io", "nodeblocks/status ippools/status meshconfigs/status", "update"),
		rule("events.k8s.io", "events", "create patch"),
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: controllers.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: controllers.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: controllers.Name}},
	}
	for _, object := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	return server.User(t, controllers.Name)
}

// runOperator runs the controllers without leader election until the test ends or stop is called.
func runOperator(t *testing.T, config *rest.Config, name string, cooldown time.Duration) (stop func()) {
	t.Helper()
	scheme, err := controllers.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := controllers.Add(mgr, controllers.Options{Cooldown: cooldown, Suffix: "-" + t.Name() + name}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("operator %s: %v", name, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

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

// eventually waits until a condition holds.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s: %v", patience, err)
		case <-tick.C:
		}
	}
}

// cluster writes what a user and the kubelets write.
type cluster struct {
	client.Client
	t *testing.T
}

func (c cluster) pool(name string, ranges ...v1alpha1.PoolCIDR) {
	c.t.Helper()
	c.create(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{CIDRs: ranges}})
}

func (c cluster) config() {
	c.t.Helper()
	c.create(&v1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.MeshConfigName}})
}

func (c cluster) create(object client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), object); err != nil {
		c.t.Fatal(err)
	}
}

func (c cluster) node(name string, addresses ...string) {
	c.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.create(node)
	for _, a := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	if len(addresses) == 0 {
		return
	}
	if err := c.Status().Update(c.t.Context(), node); err != nil {
		c.t.Fatal(err)
	}
}

// removeNode deletes a Node and, as the garbage collector does, its MeshNode.
func (c cluster) removeNode(name string) {
	c.t.Helper()
	for _, object := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}},
		&v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: name}},
	} {
		if err := c.Delete(c.t.Context(), object); client.IgnoreNotFound(err) != nil {
			c.t.Fatal(err)
		}
	}
}

func (c cluster) meshNode(name string) (*v1alpha1.MeshNode, error) {
	var m v1alpha1.MeshNode
	err := c.Get(c.t.Context(), client.ObjectKey{Name: name}, &m)
	return &m, err
}

// wantCondition checks one condition of a list.
func wantCondition(conditions []metav1.Condition, kind string, status metav1.ConditionStatus, reason string, generation int64) error {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != generation {
		return fmt.Errorf("condition %s is %+v, want %s %s of generation %d", kind, c, status, reason, generation)
	}
	return nil
}

// wantEvent looks for an event about an object.
func (c cluster) wantEvent(kind, name, reason string) error {
	var list eventsv1.EventList
	if err := c.List(c.t.Context(), &list); err != nil {
		return err
	}
	for _, e := range list.Items {
		if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("no event %s about %s %s among %d", reason, kind, name, len(list.Items))
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

// allAllocated : every MeshNode has two blocks and says so.
func (c cluster) allAllocated(want int) error {
	var list v1alpha1.MeshNodeList
	if err := c.List(c.t.Context(), &list); err != nil {
		return err
	}
	if len(list.Items) != want {
		return fmt.Errorf("%d MeshNodes, want %d", len(list.Items), want)
	}
	for _, m := range list.Items {
		if len(m.Spec.PodCIDRs) != 2 || len(m.Spec.MeshIPs) != 2 {
			return fmt.Errorf("%s has %v %v", m.Name, m.Spec.PodCIDRs, m.Spec.MeshIPs)
		}
		if err := wantCondition(m.Status.Conditions, v1alpha1.ConditionAllocated, metav1.ConditionTrue, "Allocated", m.Generation); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
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

// TestLife follows one small cluster through everything that users do to it.
func TestLife(t *testing.T) {
	server := apiserver.Start(t)
	c := cluster{apiserver.Client(t, server.Config), t}
	user := operatorUser(t, server)
	watched := watchOverlaps(t, server.Config)
	stop := runOperator(t, user, "first", 3*time.Second)

	t.Run("without a pool the node says so", func(t *testing.T) {
		c.t = t
		c.node("a", "10.200.0.11", "fd00:c8::11")
		eventually(t, func() error {
			m, err := c.meshNode("a")
			return errors.Join(err, wantCondition(m.Status.Conditions, v1alpha1.ConditionAllocated, metav1.ConditionFalse, "NoPool", m.Generation),
				c.wantEvent("Node", "a", "NoPool"), c.wantEvent("Node", "a", "NoMeshConfig"))
		})
	})
	t.Run("a pool heals it", func(t *testing.T) {
		c.t = t
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
	})
	t.Run("exhaustion is told on pool and node, and heals by itself", func(t *testing.T) {
		c.t = t
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
	})
	t.Run("an overlapping pool is refused", func(t *testing.T) {
		c.t = t
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
	})
	t.Run("shrinking is refused and said", func(t *testing.T) {
		c.t = t
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
	})
	c.t = t
	before, err := c.meshNode("a")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a spec that somebody edits is put right", func(t *testing.T) {
		c.t = t
		if err := watched.verdict(); err != nil { // before the test itself moves a block
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
	})
	t.Run("the agent's conditions stay", func(t *testing.T) {
		c.t = t
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
	})
	t.Run("a restart changes nothing", func(t *testing.T) {
		c.t = t
		stop()
		before := c.versions()
		runOperator(t, user, "second", 3*time.Second)
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
	})
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
