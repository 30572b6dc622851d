//go:build apiserver

package controllers_test

import (
	"context"
	"fmt"
	"os"
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
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/controllers"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/poll"
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
		rule("networking.k8s.io", "servicecidrs", "list watch"),
		rule("weftnet.io", "ippools meshconfigs", "list watch"),
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

// eventually waits until a condition holds.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	poll.Until(t, patience, "what the operator does", condition)
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
