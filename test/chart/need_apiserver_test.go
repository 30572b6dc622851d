//go:build apiserver

package chart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/source"
	policysource "github.com/weftnet/weftnet/agent/source/policy"
	servicesource "github.com/weftnet/weftnet/agent/source/service"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/agent/status"
	"github.com/weftnet/weftnet/cli/defaults"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/controllers"
)

// footprint is what an account has asked the API server for.
type footprint struct {
	mu      sync.Mutex
	used    map[string]bool
	refused []string
}

var requestInfo = &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// follow has every request of a configuration noted.
func follow(config *rest.Config) *footprint {
	f := &footprint{used: map[string]bool{}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) { return f.note(r, next) })
	})
	return f
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (f *footprint) note(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	info, err := requestInfo.NewRequestInfo(r)
	if err != nil {
		return nil, err
	}
	answer, err := next.RoundTrip(r)
	if err != nil || !info.IsResourceRequest {
		return answer, err
	}
	right := rightOf(info.Verb, info.APIGroup, strings.TrimSuffix(info.Resource+"/"+info.Subresource, "/"))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used[right] = true
	if answer.StatusCode == http.StatusForbidden {
		f.refused = append(f.refused, right+" "+r.URL.Path)
	}
	return answer, nil
}

func rightOf(verb, group, resource string) string { return verb + " " + group + "/" + resource }

// unused are the rights of an account that it has not used. Who watches needs list too: it is asked for where an API
// server does not stream the first list as part of the watch.
func (f *footprint) unused(c *cluster, account string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []string
	for _, right := range c.rights(account) {
		resource, lists := strings.CutPrefix(right, "list ")
		if used := f.used[right] || lists && f.used["watch "+resource]; !used && seldom[right] == "" {
			left = append(left, right)
		}
	}
	return left
}

// seldom are rights that a short and healthy life has no use for, each with the reason for it.
var seldom = map[string]string{
	"patch events.k8s.io/events":    "the same event again within minutes is counted, not made anew",
	"patch /events":                 "the same, of who leads",
	"create weftnet.io/ippools":     "server-side apply of what is not there: the request is a patch, the API server asks for both rights",
	"create weftnet.io/meshconfigs": "the same",
}

// TestEveryRightIsNeeded lives through what operator and agent do with the rights that the chart gives them: nothing
// is refused, and every right is used but for those above, of which the reason is known.
func TestEveryRightIsNeeded(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	c := start(t)
	c.install("--set", "policy.installCRD=true")
	c.admitDefault()
	c.node("old")
	operator, agent := c.tokenConfig("weftnet-operator", ""), c.tokenConfig("weftnet-agent", "agent-old")
	footprints := map[string]*footprint{"weftnet-operator": follow(operator), "weftnet-agent": follow(agent)}

	c.applyDefaults(operator)
	c.runOperator(operator)
	c.runAgent(agent, "old")
	c.live()
	for account, f := range footprints {
		var left []string
		t.Cleanup(func() {
			if len(left) > 0 {
				t.Logf("%s has not used: %s", account, strings.Join(left, ", "))
			}
		})
		c.eventually(account+" to use each of its rights", func(context.Context) (bool, error) {
			left = f.unused(c, account)
			return len(left) == 0, nil
		})
		if len(f.refused) > 0 {
			t.Errorf("%s was refused: %v", account, f.refused)
		}
	}
}

// live is what people and the cluster do meanwhile.
func (c *cluster) live() {
	ctx := c.t.Context()
	scheme, err := controllers.Scheme()
	if err != nil {
		c.t.Fatal(err)
	}
	admin, err := client.New(c.server.Config, client.Options{Scheme: scheme})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := admin.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "young"}}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("a block for each node", func(ctx context.Context) (bool, error) {
		var nodes v1alpha1.MeshNodeList
		err := c.admin.List(ctx, &nodes)
		return len(nodes.Items) == 2 && len(nodes.Items[0].Spec.PodCIDRs) == 2 && len(nodes.Items[1].Spec.PodCIDRs) == 2, err
	})
	policy := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
	policy.Spec.Tier, policy.Spec.Priority = policyv1alpha2.AdminTier, 1
	policy.Spec.Subject.Namespaces = &metav1.LabelSelector{}
	policy.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
		Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
		To:     []policyv1alpha2.ClusterNetworkPolicyEgressPeer{{Networks: []policyv1alpha2.CIDR{"192.0.2.0/24"}}},
	}}
	c.eventually("the kind ClusterNetworkPolicy to be served", func(ctx context.Context) (bool, error) {
		err := admin.Create(ctx, policy)
		if meta.IsNoMatchError(err) {
			err = nil
		}
		return policy.UID != "", err
	})
	// A node goes, and with it, as the garbage collector does, its MeshNode: its blocks are free after a while.
	if err := errors.Join(c.admin.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "young"}}), c.admin.Delete(ctx, meshNode("young"))); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) applyDefaults(as *rest.Config) {
	c.t.Helper()
	var values corev1.ConfigMap
	if err := c.admin.Get(c.t.Context(), client.ObjectKey{Namespace: namespace, Name: "weftnet-defaults"}, &values); err != nil {
		c.t.Fatal(err)
	}
	objects, err := defaults.ParseBytes([]byte(values.Data["defaults.yaml"]))
	if err != nil {
		c.t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	who, err := client.New(as, client.Options{})
	if err == nil {
		err = defaults.Apply(limited, who, slog.New(slog.DiscardHandler), objects)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// runOperator runs the operator as its main does, until the test ends.
func (c *cluster) runOperator(as *rest.Config) {
	c.t.Helper()
	scheme, err := controllers.Scheme()
	if err != nil {
		c.t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(as, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: controllers.Name, LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := controllers.Add(mgr, controllers.Options{Cooldown: time.Second, Policies: true, Suffix: "-" + c.t.Name()}); err != nil {
		c.t.Fatal(err)
	}
	c.background(func(ctx context.Context) {
		if err := mgr.Start(ctx); err != nil {
			c.t.Errorf("run the operator: %v", err)
		}
	})
}

// background runs something until the test ends.
func (c *cluster) background(run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	c.t.Cleanup(func() { cancel(); <-done })
}

// seen is a mesh of one node that has found a fault in itself.
type seen struct{ report reconcile.Report }

func (s seen) Report() (reconcile.Report, bool) { return s.report, true }
func (s seen) Reported() <-chan struct{}        { return nil }

// runAgent runs all of an agent that speaks with the API server, until the test ends.
func (c *cluster) runAgent(as *rest.Config, node string) {
	c.t.Helper()
	log := slog.New(slog.DiscardHandler)
	objects, err1 := source.New(source.Config{Node: node, REST: as, Log: log, Cache: cache.Cache{Path: filepath.Join(c.t.TempDir(), "peers.json"), Self: node}})
	policies, err2 := policysource.New(policysource.Config{Node: node, REST: as, Log: log})
	services, err3 := servicesource.New(servicesource.Config{Node: node, REST: as})
	weftnet, err4 := source.NewClient(as, v1alpha1.GroupVersion)
	events, err5 := source.NewClient(as, eventsv1.SchemeGroupVersion)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		c.t.Fatal(err)
	}
	var r reconcile.Report
	r.Plan.Own = mesh.Own{PublicKey: state.PublicKey{1}, KeyEpoch: 1, ListenPort: 51820, MTU: 1420}
	r.Plan.Problems = []mesh.Problem{{Kind: mesh.KindMeshNode, Name: node, Reason: "InvalidCIDR", Message: fmt.Sprintf("of %s", c.t.Name())}}
	publisher := status.NewPublisher(status.Config{Node: node, Loop: seen{r}, Source: objects, Weftnet: weftnet, Events: events, Log: log})
	for _, run := range []func(context.Context){objects.Run, policies.Run, services.Run, publisher.Run} {
		c.background(run)
	}
}
