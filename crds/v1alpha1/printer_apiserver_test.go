//go:build apiserver

package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
)

// TestGet shows what `kubectl get` prints, and that the short names and the category are there.
func TestGet(t *testing.T) {
	server := apiserver.Start(t)
	admin := apiserver.Client(t, server.Config)
	node := &v1alpha1.MeshNode{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Spec:       v1alpha1.MeshNodeSpec{PodCIDRs: []string{"10.244.0.0/24", "fd00:10:244::/64"}},
	}
	node.Status = v1alpha1.MeshNodeStatus{
		Backend: v1alpha1.BackendUserspace, Peers: v1alpha1.PeerSummary{Expected: 2, Connected: 1},
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "InForce", LastTransitionTime: metav1.Now()}},
	}
	pool := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}}}}
	pool.Status.Summary = "10.244.0.0/16 1/256"
	block := &v1alpha1.NodeBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.244.0.0-24"},
		Spec: v1alpha1.NodeBlockSpec{CIDR: "10.244.0.0/24", Node: "node1", Pool: "default"}}
	block.Status.State = v1alpha1.BlockBound
	config := &v1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	for _, object := range []client.Object{node, pool, block, config} {
		wanted := object.DeepCopyObject().(client.Object)
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		wanted.SetResourceVersion(object.GetResourceVersion())
		if err := admin.Status().Update(t.Context(), wanted); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ plural, short, want string }{
		{"meshnodes", "mn", `Name=node1 Pod CIDRs=["10.244.0.0/24","fd00:10:244::/64"] Backend=Userspace Connected=1 Expected=2 Ready=True`},
		{"ippools", "ipp", "Name=default Blocks=10.244.0.0/16 1/256 Disabled=<nil> Ready=<nil>"},
		{"nodeblocks", "nb", "Name=10.244.0.0-24 CIDR=10.244.0.0/24 Node=node1 Pool=default State=Bound"},
		{"meshconfigs", "mc", "Name=default Port=51820 MTU=<nil> Backend=Auto"},
	}
	short := shortNames(t, server.Config)
	for _, tt := range tests {
		if got := printed(t, server.Config, tt.plural); !strings.Contains(got, tt.want) || !strings.Contains(got, "Age=") {
			t.Errorf("get %s prints\n%s, want\n%s", tt.plural, got, tt.want)
		}
		if got := short[tt.plural]; got != tt.short+" weftnet" {
			t.Errorf("%s: short name and category %q", tt.plural, got)
		}
	}
}

// printed is the first line of the table that the API server makes for kubectl.
func printed(t *testing.T, config *rest.Config, plural string) string {
	t.Helper()
	clients, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	body, err := clients.RESTClient().Get().AbsPath("/apis/weftnet.io/v1alpha1/"+plural).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err)
	}
	var line []string
	for i, column := range table.ColumnDefinitions {
		line = append(line, fmt.Sprintf("%s=%v", column.Name, table.Rows[0].Cells[i]))
	}
	return strings.Join(line, " ")
}

func shortNames(t *testing.T, config *rest.Config) map[string]string {
	t.Helper()
	clients, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := clients.ServerResourcesForGroupVersion("weftnet.io/v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, r := range list.APIResources {
		names[r.Name] = strings.Join(append(r.ShortNames, r.Categories...), " ")
	}
	return names
}
