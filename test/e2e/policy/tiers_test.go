//go:build e2e

package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/test/harness"
)

func kubectl(ctx context.Context, args ...string) error {
	_, err := harness.Command(ctx, cluster.Root, nil, harness.Bin(cluster.Root, "kubectl"), args...)
	return err
}

// installTiers installs the CRD that the chart brings, for the time of the test.
func installTiers(t *testing.T) {
	t.Helper()
	crds := filepath.Join(cluster.Root, "helm", "weftnet", "files", "policy-crds")
	if err := kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "-f", crds); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubectl(context.Background(), "delete", "--ignore-not-found", "-f", crds); err != nil {
			t.Error(err)
		}
	})
	if err := kubectl(t.Context(), "wait", "--for=condition=Established", "--timeout=30s", "-f", crds); err != nil {
		t.Fatal(err)
	}
}

// tiered is a ClusterNetworkPolicy about the probes' way to one TCP port of a namespace's Pods.
func tiered(name, namespace string, tier policyv1alpha2.Tier, action policyv1alpha2.ClusterNetworkPolicyRuleAction, port int32) policyv1alpha2.ClusterNetworkPolicy {
	return policyv1alpha2.ClusterNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: policyv1alpha2.GroupVersion.String(), Kind: "ClusterNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: policyv1alpha2.ClusterNetworkPolicySpec{
			Tier: tier, Priority: 10, Subject: policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: namespaceNamed(namespace)},
			Ingress: []policyv1alpha2.ClusterNetworkPolicyIngressRule{{
				Name: "probes", Action: action,
				From:      []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: namespaceNamed(harness.ProbeNamespace)}},
				Protocols: []policyv1alpha2.ClusterNetworkPolicyProtocol{{TCP: &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: &policyv1alpha2.Port{Number: port}}}},
			}},
		},
	}
}

// applyTiered applies the policy; it ends with the test.
func applyTiered(t *testing.T, p policyv1alpha2.ClusterNetworkPolicy) {
	t.Helper()
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p)
	if err != nil {
		t.Fatal(err)
	}
	delete(object, "status") // is not ours
	text, err := json.Marshal(object)
	file := filepath.Join(t.TempDir(), "policy.json")
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err == nil {
		err = kubectl(t.Context(), "apply", "--server-side", "-f", file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func deleteTiered(t *testing.T, name string) {
	t.Helper()
	if err := kubectl(t.Context(), "delete", "clusternetworkpolicies.policy.networking.k8s.io", name); err != nil {
		t.Fatal(err)
	}
}

// opens requires that a TCP port is open for the clients, or closed.
func (s stage) opens(t *testing.T, what string, port int32, want bool) {
	t.Helper()
	eventually(t, what, func() error {
		for _, client := range s.clients {
			server := at(harness.Addresses(s.server.pod), port)
			if want {
				if err := connects(t, client.Namespace, server...); err != nil {
					return err
				}
			} else if err := refused(t, client.Namespace, server...); err != nil {
				return err
			}
		}
		return nil
	})
}

// decides asks the command which tier decides about the port.
func (s stage) decides(t *testing.T, port int, tier string) {
	t.Helper()
	out, err := weft(t, "policy", "explain", "-o", "json",
		"--from", s.clients[0].pod.Namespace+"/"+s.clients[0].pod.Name, "--to", fmt.Sprintf("%s/server:%d", s.namespace, port))
	var answer struct {
		Flows []struct{ Ingress struct{ Tier string } }
	}
	if jsonErr := json.Unmarshal([]byte(out), &answer); jsonErr != nil {
		t.Fatalf("%v: %v\n%s", jsonErr, err, out)
	}
	if len(answer.Flows) == 0 || answer.Flows[0].Ingress.Tier != tier {
		t.Errorf("the command does not say that tier %s decides about port %d:\n%s", tier, port, strings.TrimSpace(out))
	}
}

// TestTiers : what Admin denies or accepts no NetworkPolicy changes; what it passes they decide; Baseline decides
// where none of them selects the Pod. Without the CRD none of it is left.
func TestTiers(t *testing.T) {
	installTiers(t)
	s := newStage(t)
	s.opens(t, "the NetworkPolicy's port", firstPort, true)

	applyTiered(t, tiered("weftnet-e2e-admin", s.namespace, policyv1alpha2.AdminTier, policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, firstPort))
	s.opens(t, "Admin denies what the NetworkPolicy allows", firstPort, false)
	s.opens(t, "the other ports are the NetworkPolicy's", firstPort+1, true)
	s.decides(t, firstPort, "Admin")

	applyTiered(t, tiered("weftnet-e2e-admin", s.namespace, policyv1alpha2.AdminTier, policyv1alpha2.ClusterNetworkPolicyRuleActionPass, firstPort))
	s.opens(t, "Admin passes, the NetworkPolicy allows", firstPort, true)
	s.decides(t, firstPort, "NetworkPolicy")

	applyTiered(t, tiered("weftnet-e2e-admin", s.namespace, policyv1alpha2.AdminTier, policyv1alpha2.ClusterNetworkPolicyRuleActionAccept, lastPort+1))
	s.opens(t, "Admin accepts what no NetworkPolicy allows", lastPort+1, true)

	deleteTiered(t, "weftnet-e2e-admin")
	s.opens(t, "without Admin the NetworkPolicy isolates", lastPort+1, false)
	applyTiered(t, tiered("weftnet-e2e-baseline", s.namespace, policyv1alpha2.BaselineTier, policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, firstPort))
	s.opens(t, "Baseline has no say where a NetworkPolicy selects the Pod", firstPort, true)
	err := cluster.Client.NetworkingV1().NetworkPolicies(s.namespace).Delete(t.Context(), "ports", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.opens(t, "without a NetworkPolicy Baseline denies", firstPort, false)
	s.opens(t, "and only what it names", lastPort+1, true)
	s.decides(t, firstPort, "Baseline")

	crd := "crd/clusternetworkpolicies.policy.networking.k8s.io"
	if err := kubectl(t.Context(), "delete", crd); err != nil {
		t.Fatal(err)
	}
	s.opens(t, "without the CRD no tier is left", firstPort, true)
}
