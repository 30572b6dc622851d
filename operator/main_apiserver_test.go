//go:build apiserver

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/controllers"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/poll"
)

// replica is one running operator.
type replica struct {
	process *exec.Cmd
	metrics string
	health  string
}

// startReplica runs the program as the Deployment does.
func startReplica(t *testing.T, binary, kubeconfig string) *replica {
	t.Helper()
	r := &replica{metrics: freeAddress(t), health: freeAddress(t)}
	r.process = exec.Command(binary, "-leader-elect", "-leader-election-namespace=default",
		"-metrics-address="+r.metrics, "-health-address="+r.health)
	r.process.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	r.process.Stderr = log
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of the operator:\n%s", text)
		}
	})
	return r
}

func (r *replica) kill() {
	if r.process.ProcessState == nil {
		_ = r.process.Process.Kill()
		_ = r.process.Wait()
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get asks one page of a replica.
func get(address, path string) (string, error) {
	response, err := http.Get("http://" + address + path) //nolint:noctx // a page of a process of ours
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, response.Status, body)
	}
	return string(body), err
}

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	poll.Until(t, 3*time.Minute, "what the operator does", condition)
}

// TestReplicas runs the program twice: one leads, both are ready, and when the leader is killed the
// other goes on where it was.
func TestReplicas(t *testing.T) {
	binary := buildOperator(t)
	server := apiserver.Start(t)
	admin := apiserver.Client(t, server.Config)
	kubeconfig := server.Kubeconfig(t, "admin-of-the-test", "system:masters")
	create := func(object client.Object) {
		t.Helper()
		if err := admin.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	create(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v1alpha1.IPPoolSpec{CIDRs: []v1alpha1.PoolCIDR{{CIDR: "10.244.0.0/16"}, {CIDR: "fd00:10:244::/48"}}}})
	create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})

	replicas := map[string]*replica{}
	for _, name := range []string{"first", "second"} {
		replicas[name] = startReplica(t, binary, kubeconfig)
	}
	for _, r := range replicas {
		eventually(t, func() error {
			_, ready := get(r.health, "/readyz")
			_, healthy := get(r.health, "/healthz")
			return errors.Join(ready, healthy)
		})
	}
	blocks := func(node string) (string, error) {
		var m v1alpha1.MeshNode
		err := admin.Get(t.Context(), client.ObjectKey{Name: node}, &m)
		if err == nil && len(m.Spec.PodCIDRs) != 2 {
			err = fmt.Errorf("%s has %v", node, m.Spec.PodCIDRs)
		}
		return strings.Join(m.Spec.PodCIDRs, " "), err
	}
	eventually(t, func() error { _, err := blocks("a"); return err })

	leader := ""
	eventually(t, func() (err error) { leader, err = whoLeads(replicas); return err })
	replicas[leader].kill()
	create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	eventually(t, func() error { _, err := blocks("b"); return err })
	if got, err := blocks("a"); err != nil || got != "10.244.0.0/24 fd00:10:244::/64" {
		t.Errorf("a has %s, %v", got, err)
	}
	if got, err := blocks("b"); err != nil || got != "10.244.1.0/24 fd00:10:244:1::/64" {
		t.Errorf("b has %s, %v", got, err)
	}
	var lease coordinationv1.Lease
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: controllers.Name}, &lease); err != nil {
		t.Errorf("the lease: %v", err)
	}
}

// whoLeads finds the one replica that leads, and expects its metrics to tell of the cluster.
func whoLeads(replicas map[string]*replica) (string, error) {
	leader := ""
	for name, r := range replicas {
		page, err := get(r.metrics, "/metrics")
		if err != nil {
			return "", err
		}
		if !strings.Contains(page, `leader_election_master_status{name="weftnet-operator"} 1`) {
			continue
		}
		if leader != "" {
			return "", errors.New("both lead")
		}
		leader = name
		for _, sample := range []string{
			`weftnet_operator_pool_blocks{cidr="10.244.0.0/16",pool="default",state="allocated"} 1`,
			`weftnet_operator_pool_blocks{cidr="10.244.0.0/16",pool="default",state="free"} 255`,
			`weftnet_operator_nodes{allocated="true"} 1`,
			`weftnet_operator_problems{kind="Node",reason="NoMeshConfig"} 1`,
			`weftnet_operator_plan_duration_seconds_count`,
		} {
			if !strings.Contains(page, sample) {
				return "", fmt.Errorf("no %s in the metrics of the leader", sample)
			}
		}
	}
	if leader == "" {
		return "", errors.New("nobody leads")
	}
	return leader, nil
}
