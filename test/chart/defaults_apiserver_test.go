//go:build apiserver

package chart

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/cli/defaults"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// appliesDefaults applies what the chart's ConfigMap holds with the operator's own rights, and
// again after a user's edit, after a change of the values, and with a value that is refused.
func appliesDefaults(c *cluster) {
	t, ctx := c.t, c.t.Context()
	operator := c.tokenClient("weftnet-operator", "")
	apply := func(extra ...string) error {
		c.install(extra...)
		var values corev1.ConfigMap
		if err := c.admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "weftnet-defaults"}, &values); err != nil {
			t.Fatal(err)
		}
		objects, err := defaults.ParseBytes([]byte(values.Data["defaults.yaml"]))
		if err != nil {
			t.Fatal(err)
		}
		limited, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		return defaults.Apply(limited, operator, slog.New(slog.NewTextHandler(io.Discard, nil)), objects)
	}
	config := func() v1alpha1.MeshConfigSpec {
		var got v1alpha1.MeshConfig
		if err := c.admin.Get(ctx, client.ObjectKey{Name: v1alpha1.MeshConfigName}, &got); err != nil {
			t.Fatal(err)
		}
		return got.Spec
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	must(apply())
	var pool v1alpha1.IPPool
	must(c.admin.Get(ctx, client.ObjectKey{Name: "default"}, &pool))
	if got := pool.Spec.CIDRs; len(got) != 2 || got[0].CIDR != "10.244.0.0/16" || got[1].CIDR != "fd00:10:244::/48" {
		t.Errorf("the default pool has %v", got)
	}
	if got := config(); got.ListenPort != 51820 {
		t.Errorf("the default settings are %+v", got)
	}

	must(apply("--set", "meshConfig.mtu=1380"))
	if got := config().MTU; got != 1380 {
		t.Errorf("a changed value did not arrive: mtu %d", got)
	}

	var edited v1alpha1.MeshConfig
	edited.Name = v1alpha1.MeshConfigName
	must(c.admin.Patch(ctx, &edited, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"mtu":1300}}`)), client.FieldOwner("kubectl-edit")))
	must(apply("--set", "meshConfig.mtu=1390"))
	if got := config().MTU; got != 1300 {
		t.Errorf("the user's mtu 1300 was overwritten with %d", got)
	}

	err := apply("--set-json", `ipPools=[{"name":"bad","cidrs":[{"cidr":"10.244.1.0/16"}]},{"name":"good","cidrs":[{"cidr":"10.77.0.0/16"}]}]`)
	if err == nil || !strings.Contains(err.Error(), "IPPool bad") || !strings.Contains(err.Error(), "canonical") {
		t.Errorf("a pool that the API server refuses: %v", err)
	}
	if err := c.admin.Get(ctx, client.ObjectKey{Name: "good"}, &pool); err != nil {
		t.Errorf("the bad pool kept the good one from being made: %v", err)
	}
	if err := c.admin.Get(ctx, client.ObjectKey{Name: "default"}, &pool); err != nil {
		t.Errorf("a pool that left the values was deleted: %v", err)
	}
}

// copyOf is a copy of the chart in a folder of its own.
func (c *cluster) copyOf(chart string) string {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "weftnet")
	if err := os.CopyFS(dir, os.DirFS(chart)); err != nil {
		c.t.Fatal(err)
	}
	return dir
}
