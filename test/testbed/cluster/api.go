package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftnet/weftnet/test/testbed/image"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Client is the administrator's client.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Layout.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}

func awaitRegistered(ctx context.Context, client kubernetes.Interface, nodes []layout.Node) error {
	return awaitNodes(ctx, client, nodes, "register", func(corev1.Node) bool { return true })
}

// WaitReady waits until every node is ready, which takes a network, and until
// CoreDNS answers.
func (c *Cluster) WaitReady(ctx context.Context) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	if err := awaitNodes(ctx, client, state.NodeList(), "become ready", c.readyInThisBoot); err != nil {
		return err
	}
	c.say("%d nodes ready", len(state.Nodes))
	err = proc.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		return err == nil && d.Spec.Replicas != nil && d.Status.ReadyReplicas == *d.Spec.Replicas, nil
	})
	if err != nil {
		return fmt.Errorf("wait for CoreDNS: %w", err)
	}
	c.say("CoreDNS ready")
	return nil
}

// readyInThisBoot does not believe what a node said before its last reboot.
func (c *Cluster) readyInThisBoot(n corev1.Node) bool { return isReady(n) && c.inThisBoot(n) }

// inThisBoot says whether a node has reported since it last booted.
func (c *Cluster) inThisBoot(n corev1.Node) bool {
	boot, err := os.ReadFile(c.Layout.NodeDir(n.Name, node.BootFile))
	return err == nil && n.Status.NodeInfo.BootID == strings.TrimSpace(string(boot))
}

func isReady(n corev1.Node) bool {
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// awaitNodes waits for the nodes; when it gives up it names those missing.
func awaitNodes(ctx context.Context, client kubernetes.Interface, nodes []layout.Node, what string, good func(corev1.Node) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var missing []string
	var last error
	err := proc.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			last = err
			return false, nil
		}
		have := map[string]bool{}
		for _, n := range list.Items {
			have[n.Name] = good(n)
		}
		missing, last = nil, nil
		for _, n := range nodes {
			if !have[n.String()] {
				missing = append(missing, n.String())
			}
		}
		return len(missing) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for nodes %v to %s: %w", missing, what, errors.Join(err, last))
	}
	return nil
}

// labelControlPlane marks the first node as kubeadm does, without its taint:
// Pods run there too. A kubelet may not set this label itself.
func labelControlPlane(ctx context.Context, client kubernetes.Interface) error {
	patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`)
	_, err := client.CoreV1().Nodes().Patch(ctx, layout.Node(1).String(), types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("label the control plane's node: %w", err)
	}
	return nil
}

func deleteNodeObject(ctx context.Context, client kubernetes.Interface, n layout.Node) error {
	err := client.CoreV1().Nodes().Delete(ctx, n.String(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the Node object of %s: %w", n, err)
	}
	return nil
}

//go:embed manifests.yaml
var manifestText string

var manifest = template.Must(template.New("manifests").Parse(manifestText))

// renderManifests writes what every cluster has: CoreDNS, and kube-proxy's
// permissions.
func renderManifests(family layout.Family) (string, error) {
	values := map[string]any{
		"Image": image.CoreDNS, "Domain": layout.Domain, "DNS": layout.DNS(family), "Dual": family == layout.Dual,
	}
	var out bytes.Buffer
	if err := manifest.Execute(&out, values); err != nil {
		return "", fmt.Errorf("write the manifests: %w", err)
	}
	return out.String(), nil
}

func (c *Cluster) applyCoreDNS(ctx context.Context, family layout.Family) error {
	text, err := renderManifests(family)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.Layout.Path("bin", "kubectl"), "--kubeconfig", c.Layout.Kubeconfig(),
		"apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply CoreDNS: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
