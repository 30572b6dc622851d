//go:build apiserver

package controllers_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/controllers"
	"github.com/weftnet/weftnet/test/apiserver"
)

// clusterPolicyCRD is the CRD of the experimental channel, which lets through what is not honoured.
func clusterPolicyCRD(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	return &crd
}

// TestClusterNetworkPolicyConditions: the CRD comes while the operator runs, and every policy gets the
// condition that it deserves, beside those of other implementations.
func TestClusterNetworkPolicyConditions(t *testing.T) {
	server := apiserver.Start(t)
	scheme, err := controllers.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(server.Config, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := controllers.Add(mgr, controllers.Options{Cooldown: controllers.LeastCooldown, Suffix: t.Name(), Policies: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(server.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, clusterPolicyCRD(t)); err != nil {
		t.Fatal(err)
	}
	policy := func(name string, to policyv1alpha2.ClusterNetworkPolicyEgressPeer) *policyv1alpha2.ClusterNetworkPolicy {
		p := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
		p.Spec.Tier, p.Spec.Subject.Namespaces = policyv1alpha2.AdminTier, &metav1.LabelSelector{}
		p.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
			Action: policyv1alpha2.ClusterNetworkPolicyRuleActionAccept, To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{to},
		}}
		return p
	}
	good := policy("good", policyv1alpha2.ClusterNetworkPolicyEgressPeer{Networks: []policyv1alpha2.CIDR{"10.0.0.0/8"}})
	bad := policy("bad", policyv1alpha2.ClusterNetworkPolicyEgressPeer{DomainNames: []policyv1alpha2.DomainName{"example.com."}})
	for _, p := range []*policyv1alpha2.ClusterNetworkPolicy{good, bad} {
		eventually(t, func() error { return c.Create(ctx, p) }) // until the kind is served
	}
	expect := func(name string, status metav1.ConditionStatus, reason, says string) {
		t.Helper()
		eventually(t, func() error {
			var p policyv1alpha2.ClusterNetworkPolicy
			if err := c.Get(ctx, client.ObjectKey{Name: name}, &p); err != nil {
				return err
			}
			if err := wantCondition(p.Status.Conditions, v1alpha1.ConditionPolicyAccepted, status, reason, p.Generation); err != nil {
				return err
			}
			if m := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionPolicyAccepted).Message; !strings.Contains(m, says) {
				return fmt.Errorf("message %q lacks %q", m, says)
			}
			return nil
		})
	}
	expect("good", metav1.ConditionTrue, "Accepted", "every node")
	expect("bad", metav1.ConditionFalse, "NotHonoured", "spec.egress[0].to[0].domainNames")
	eventually(t, func() error { return cluster{c, t}.wantEvent("ClusterNetworkPolicy", "bad", "NotHonoured") })
	eventually(t, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(bad), bad); err != nil {
			return err
		}
		bad.Spec.Egress = good.Spec.Egress
		return c.Update(ctx, bad)
	})
	expect("bad", metav1.ConditionTrue, "Accepted", "")
}
