//go:build apiserver

package apiserver

import (
	"context"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// TestStart shows that the resources are served, that admission is Weftnet's own, and that a
// user without a role is refused.
func TestStart(t *testing.T) {
	ctx := context.Background()
	server := Start(t)
	admin := Client(t, server.Config)

	var serviceCIDRs networkingv1.ServiceCIDRList
	if err := admin.List(ctx, &serviceCIDRs); err != nil {
		t.Fatal(err)
	}
	if len(serviceCIDRs.Items) != 1 || len(serviceCIDRs.Items[0].Spec.CIDRs) != 2 {
		t.Errorf("want one dual-stack ServiceCIDR, got %v", serviceCIDRs.Items)
	}

	bad := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "bad"},
		Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.1.0/16"}}}}
	if err := admin.Create(ctx, bad); err == nil || !strings.Contains(err.Error(), "is not in canonical form") {
		t.Errorf("a range that is not canonical: want it refused in words, got %v", err)
	}

	stranger := Client(t, server.User(t, "stranger"))
	if err := stranger.List(ctx, &v1alpha1.IPPoolList{}); client.IgnoreNotFound(err) == nil {
		t.Error("a user without a role may list IPPools")
	}
}
