package harness

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

const pollInterval = 100 * time.Millisecond

// lastLook is how long the look may take in which the limit ends: what it found is worth more than that it was broken off.
const lastLook = 10 * time.Second

// Eventually calls check until it returns nil, and gives its last error when ctx or the limit ends.
func Eventually(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit+lastLook)
	defer cancel()
	over := time.NewTimer(limit)
	defer over.Stop()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		last := check(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-over.C:
			return fmt.Errorf("%s: not within %s: %w", what, limit, last)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// WaitNodes waits until want nodes are Ready and tell so about themselves, with Weftnet's own
// opinion of each (its MeshNode) agreeing, and with an agent on each that runs and is ready.
func (c *Cluster) WaitNodes(ctx context.Context, want int, limit time.Duration) error {
	return Eventually(ctx, limit, fmt.Sprintf("%d nodes ready", want), func(ctx context.Context) error {
		nodes, err := c.nodesReady(ctx, want)
		if err != nil {
			return err
		}
		if err := agentsReady(ctx, nodes); err != nil {
			return err
		}
		return c.meshReady(ctx, want)
	})
}

// nodesReady gives the names of the nodes.
func (c *Cluster) nodesReady(ctx context.Context, want int) ([]string, error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	if len(nodes.Items) != want {
		return nil, fmt.Errorf("%d nodes registered, want %d", len(nodes.Items), want)
	}
	var names []string
	for _, node := range nodes.Items {
		names = append(names, node.Name)
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return nil, fmt.Errorf("node %s is not ready: %s", node.Name, condition.Message)
			}
		}
	}
	return names, nil
}

func (c *Cluster) meshReady(ctx context.Context, want int) error {
	var nodes v1alpha1.MeshNodeList
	if err := c.Mesh.List(ctx, &nodes); err != nil {
		return fmt.Errorf("list MeshNodes: %w", err)
	}
	if len(nodes.Items) != want {
		return fmt.Errorf("%d MeshNodes, want %d", len(nodes.Items), want)
	}
	for _, node := range nodes.Items {
		if err := meshNodeReady(&node, int32(want-1)); err != nil {
			return err
		}
	}
	return nil
}

func meshNodeReady(node *v1alpha1.MeshNode, peers int32) error {
	if got := node.Status.Peers; got.Connected != peers || got.Expected != peers {
		return fmt.Errorf("MeshNode %s has %d of %d peers connected, want %d", node.Name, got.Connected, got.Expected, peers)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1alpha1.ConditionReady && condition.Status == metav1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("MeshNode %s is not ready: %+v", node.Name, node.Status.Conditions)
}

// WaitPods waits until the Pods that a selector finds are want in number and Ready, and returns them.
func (c *Cluster) WaitPods(ctx context.Context, namespace, selector string, want int, limit time.Duration) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	err := Eventually(ctx, limit, fmt.Sprintf("%d Pods %s/%s ready", want, namespace, selector), func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return fmt.Errorf("list Pods: %w", err)
		}
		pods = list.Items
		if len(pods) != want {
			return fmt.Errorf("%d Pods, want %d", len(pods), want)
		}
		for i := range pods {
			if err := podReady(&pods[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return pods, err
}

func podReady(pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return fmt.Errorf("pod %s is terminating", pod.Name)
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s on %s is not ready (phase %s)", pod.Name, pod.Spec.NodeName, pod.Status.Phase)
}
