//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/image"
)

const (
	meshNodeCRD = "meshnodes.weftnet.io"
	newField    = "natPeers" // of the status, which the older version does not have
)

// TestUpgradeChangesNothingOnTheWire upgrades from another version, with an older schema and other settings, to
// this one, under live flows: every agent and the operator are replaced, and the schema follows.
func TestUpgradeChangesNothingOnTheWire(t *testing.T) {
	const older = "e2e-older"
	chart := olderChart(t)
	archives := buildImages(t, older)
	if _, err := cluster.Testbed(t.Context(), append([]string{"load"}, archives...)...); err != nil {
		t.Fatal(err)
	}
	wireguard := inNode(t, "tb-node2", "ip", "-o", "link", "show", "weft0")
	err := cluster.UpgradeTo(t.Context(), chart, append(chartValues, "--set", "image.tag="+older, "--wait=legacy", "--timeout=3m")...)
	if err != nil {
		t.Fatal(err)
	}
	checkVersion(t, older, false)
	steadyFlows(t, 5341, 45*time.Second, func() {
		if err := cluster.Upgrade(t.Context(), append(chartValues, "--set", "agent.logLevel=debug", "--wait=legacy", "--timeout=3m")...); err != nil {
			t.Error(err)
		}
	})
	checkVersion(t, image.DefaultVersion, true)
	if after := inNode(t, "tb-node2", "ip", "-o", "link", "show", "weft0"); after != wireguard {
		t.Errorf("the mesh device changed by the upgrade:\nbefore %safter  %s", wireguard, after)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
	checkAllPairs(t)
}

// olderChart is the chart as it was before a field was added.
func olderChart(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "weftnet")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(cluster.Root, "helm", "weftnet"))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "files", "crds", "weftnet.io_meshnodes.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	delete(crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties, newField)
	if text, err = yaml.Marshal(crd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildImages writes the images of a version.
func buildImages(t *testing.T, version string) []string {
	t.Helper()
	dir := t.TempDir()
	if _, err := cluster.Testbed(t.Context(), "images", "--version="+version, "--out="+dir); err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "images", "*.tar"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("images of version %s: %q, %v", version, archives, err)
	}
	return archives
}

// checkVersion requires the images of a version in every Pod but WireGuard's, which an upgrade leaves alone, and the
// schema with or without the new field.
func checkVersion(t *testing.T, version string, hasField bool) {
	t.Helper()
	for _, selector := range []string{"app.kubernetes.io/component=agent", "app.kubernetes.io/component=operator"} {
		pods, err := cluster.Client.CoreV1().Pods(harness.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil || len(pods.Items) == 0 {
			t.Fatalf("Pods of %s: %d, %v", selector, len(pods.Items), err)
		}
		for _, pod := range pods.Items {
			if image := pod.Spec.Containers[0].Image; pod.DeletionTimestamp == nil && !strings.HasSuffix(image, ":"+version) {
				t.Errorf("Pod %s runs %s, want version %s", pod.Name, image, version)
			}
		}
	}
	out, err := harness.Command(t.Context(), cluster.Root, nil, harness.Bin(cluster.Root, "kubectl"), "get", "crd", meshNodeCRD, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(out), &crd); err != nil {
		t.Fatal(err)
	}
	if _, has := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties[newField]; has != hasField {
		t.Errorf("with version %s the schema has the field %s: %v, want %v", version, newField, has, hasField)
	}
}

// TestUninstallAndCleanupLeaveANodeClean comes last: nothing works after it.
func TestUninstallAndCleanupLeaveANodeClean(t *testing.T) {
	endAudit(t) // Pods that outlive the network that encrypted for them are in the clear, as documented
	if err := cluster.StopProbes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), 2*time.Minute, "nothing of Weftnet is left on the nodes", func(context.Context) error {
		for i := range nodes {
			if left := remains(t, fmt.Sprintf("tb-node%d", i+1)); left != "" {
				return fmt.Errorf("tb-node%d still has:\n%s", i+1, left)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// remains lists what a node still has of Weftnet, by the marks by which Weftnet knows its own. The
// Pods that still run keep their links until they go.
func remains(t *testing.T, node string) string {
	t.Helper()
	const script = `ip -o link | grep -E ': weft[0-9]' ; ip route show table all proto 87 | grep -v ' dev weftp' ; ip -6 route show table all proto 87 | grep -v ' dev weftp' ;
ip rule | grep -E '^87[0-9][0-9]:' ; ip -6 rule | grep -E '^87[0-9][0-9]:' ; nft list tables | grep weftnet ; ls /etc/cni/net.d /opt/cni/bin | grep weftnet ; true`
	out, err := cluster.Testbed(t.Context(), "exec", node, "--", "bash", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
