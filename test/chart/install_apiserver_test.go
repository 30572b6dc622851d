//go:build apiserver

package chart

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// TestChart takes the chart through its life in one cluster: refused without an address, installed
// as an older one, upgraded, removed, installed again; and holds what is installed against what it
// should be.
func TestChart(t *testing.T) {
	c := start(t)

	t.Run("without an API server address it says what to give", func(t *testing.T) {
		out, err := c.helm("install", release, chartDir, "-n", namespace, "--create-namespace")
		if err == nil {
			t.Fatal("installed without an address")
		}
		for _, want := range []string{"apiServer.host is not set", "kubeadm", "k3s", "In this cluster the API server answers at: "} {
			if !strings.Contains(out, want) {
				t.Errorf("the refusal does not say %q:\n%s", want, out)
			}
		}
	})

	t.Run("the CRDs upgrade with the chart", func(t *testing.T) { upgradesCRDs(c.with(t)) })
	t.Run("every manifest is strictly valid", func(t *testing.T) { isStrict(c.with(t)) })
	t.Run("an agent writes its own status and nothing else", func(t *testing.T) { agentKeepsToItself(c.with(t)) })
	t.Run("RBAC allows what is needed", func(t *testing.T) { rulesAre(c.with(t)) })
	t.Run("the defaults are applied", func(t *testing.T) { appliesDefaults(c.with(t)) })

	t.Run("the CRDs are served and outlive the release", func(t *testing.T) {
		c := c.with(t)
		crds := c.crds()
		if len(crds) == 0 {
			t.Fatal("no CRD was installed")
		}
		for _, crd := range crds {
			if crd.Annotations["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s would be deleted with the release", crd.Name)
			}
		}
		if err := c.admin.List(t.Context(), &v1alpha1.MeshNodeList{}); err != nil {
			t.Error(err)
		}
	})

	t.Run("an upgrade that changes nothing touches no workload", func(t *testing.T) {
		c := c.with(t)
		c.install()
		before := c.generations()
		c.install()
		if after := c.generations(); !equality.Semantic.DeepEqual(before, after) || len(before) != 3 {
			t.Errorf("generations before %v, after %v", before, after)
		}
	})

	t.Run("changing the operator leaves the nodes alone", func(t *testing.T) {
		c := c.with(t)
		before := c.generations()
		c.install("--set", "operator.replicas=1", "--set", "meshConfig.mtu=1380")
		after := c.generations()
		if before["DaemonSet/weftnet-agent"] != after["DaemonSet/weftnet-agent"] || before["DaemonSet/weftnet-wireguard"] != after["DaemonSet/weftnet-wireguard"] {
			t.Errorf("the nodes' Pods would be restarted: before %v, after %v", before, after)
		}
		if before["Deployment/weftnet-operator"] == after["Deployment/weftnet-operator"] {
			t.Error("new defaults do not reach the operator: its Pods are not replaced")
		}
	})

	t.Run("removed, it leaves the CRDs and what users made, and can come back", func(t *testing.T) {
		c := c.with(t)
		pool := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.99.0.0/16"}}}}
		if err := c.admin.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		c.mustHelm("uninstall", release, "-n", namespace)
		if left := c.generations(); len(left) != 0 {
			t.Errorf("left after uninstall: %v", left)
		}
		if c.gone(pool) {
			t.Error("the user's pool went with the release")
		}
		c.install()
		if c.gone(pool) {
			t.Error("the user's pool went with the second installation")
		}
	})
}

// generations of the chart's workloads: a change of the Pod template raises them.
func (c *cluster) generations() map[string]int64 {
	c.t.Helper()
	found := map[string]int64{}
	var daemons appsv1.DaemonSetList
	var deployments appsv1.DeploymentList
	if err := errors.Join(c.admin.List(c.t.Context(), &daemons), c.admin.List(c.t.Context(), &deployments)); err != nil {
		c.t.Fatal(err)
	}
	for _, d := range daemons.Items {
		found["DaemonSet/"+d.Name] = d.Generation
	}
	for _, d := range deployments.Items {
		found["Deployment/"+d.Name] = d.Generation
	}
	return found
}

// upgradesCRDs installs a chart whose CRDs are older, and then the real one.
func upgradesCRDs(c *cluster) {
	t := c.t
	old := c.copyOf(chartDir)
	path := filepath.Join(old, "files", "crds", "weftnet.io_ippools.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(text), "shortNames:\n    - ipp", "shortNames:\n    - oldpool", 1)
	if older == string(text) {
		t.Fatal("the CRD has no short name ipp to replace")
	}
	if err := os.WriteFile(path, []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustHelm("install", release, old, "-n", namespace, "--create-namespace", "-f", chartDir+"/ci/testbed.yaml")
	if got := c.shortNames(); !slices.Equal(got, []string{"oldpool"}) {
		t.Fatalf("the older CRD has %v", got)
	}
	c.install()
	if got := c.shortNames(); !slices.Equal(got, []string{"ipp"}) {
		t.Errorf("after the upgrade the CRD has %v", got)
	}
}

func (c *cluster) shortNames() []string {
	c.t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	if err := c.admin.Get(c.t.Context(), client.ObjectKey{Name: "ippools.weftnet.io"}, &crd); err != nil {
		c.t.Fatal(err)
	}
	return crd.Spec.Names.ShortNames
}

// isStrict has the API server judge every manifest of every example strictly: a field that it
// does not know is an error. Kinds of the Prometheus operator are not served here.
func isStrict(c *cluster) {
	examples, err := filepath.Glob(chartDir + "/ci/*.yaml")
	if err != nil || len(examples) == 0 {
		c.t.Fatalf("no example values: %v", err)
	}
	for _, values := range examples {
		c.t.Run(filepath.Base(values), func(t *testing.T) {
			out, err := runHelm(t, "template", release, chartDir, "-n", namespace, "-f", values)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, object := range parse(t, out) {
				if object.GroupVersionKind().Group == "monitoring.coreos.com" {
					continue
				}
				object.SetName(object.GetName() + "-strict") // beside the installed one
				if object.GetKind() == "CustomResourceDefinition" {
					continue // its name is bound to its group; install has applied it
				}
				err := c.admin.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
				if err != nil {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
}

func parse(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifests)), 4096); ; {
		var o unstructured.Unstructured
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects
		case err != nil:
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, &o)
		}
	}
}

// TestSchemaRefuses : a mistyped value is an error, not silence.
func TestSchemaRefuses(t *testing.T) {
	for _, set := range []string{
		"agent.metricPort=9000", "apiServer.port=https", "apiServer.host=[fd00::1]", "wireguard.updateStrategy=Recreate",
		"ipPools[0].cidrs[0].cidr=ten", "meshConfig.mtu=900", "meshConfig.backend=Fast", "operator.replicas=0", "cni.binDir=opt",
	} {
		if out, err := runHelm(t, "template", release, chartDir, "-f", chartDir+"/ci/testbed.yaml", "--set", set); err == nil {
			t.Errorf("accepted --set %s", set)
		} else if !strings.Contains(out, "schema") {
			t.Errorf("--set %s was refused, but not by the schema: %s", set, out)
		}
	}
}

// TestPrivileges pins what the Pods may do on a node: whoever adds to it changes this list.
func TestPrivileges(t *testing.T) {
	out, err := runHelm(t, "template", release, chartDir, "-n", namespace, "-f", chartDir+"/ci/kubeadm-v6.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	golden(t, "privileges.txt", privileges(t, parse(t, out)))
}
