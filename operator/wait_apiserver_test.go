//go:build apiserver

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestWaitsForTheAPIServer starts the operator while the API server is away: it says so to the kubelet and in its log, lives, and does its
// work as soon as the server answers.
func TestWaitsForTheAPIServer(t *testing.T) {
	binary := buildOperator(t)
	server := apiserver.Start(t)
	admin := apiserver.Client(t, server.Config)
	for _, object := range []client.Object{
		&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
	} {
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.LoadFromFile(server.Kubeconfig(t, "admin-of-the-test", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	way, there := freeAddress(t), ""
	for _, c := range config.Clusters {
		there = strings.TrimPrefix(c.Server, "https://")
		c.Server = "https://" + way
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, binary, path)
	eventually(t, func() error { _, err := get(r.health, "/healthz"); return err })
	if _, err := get(r.health, "/readyz"); err == nil || !strings.Contains(err.Error(), "the API server does not answer") {
		t.Errorf("ready without an API server: %v", err)
	}
	nstest.Relay(t, way, there)
	eventually(t, func() error {
		var m v1alpha1.MeshNode
		_, ready := get(r.health, "/readyz")
		err := admin.Get(t.Context(), client.ObjectKey{Name: "a"}, &m)
		if err == nil && len(m.Spec.PodCIDRs) != 1 {
			err = fmt.Errorf("the node has %v", m.Spec.PodCIDRs)
		}
		return errors.Join(ready, err)
	})
}

// TestEndsWhileItWaits: an operator that waits ends at once when it is asked to.
func TestEndsWhileItWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := clientcmdapi.Config{
		CurrentContext: "c", Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: "http://" + freeAddress(t)}},
		Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
	}
	if err := clientcmd.WriteToFile(config, path); err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, buildOperator(t), path)
	eventually(t, func() error { _, err := get(r.health, "/healthz"); return err })
	if err := r.process.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := r.process.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func buildOperator(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "weftnet-operator")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the operator: %v\n%s", err, out)
	}
	return binary
}
