//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

const stateDir = "/var/lib/weftnet"

// onNode runs a script with the file system of a node.
func onNode(ctx context.Context, node, script string) (string, error) {
	return cluster.Testbed(ctx, "exec", node, "--", "bash", "-ec", script)
}

func mustOnNode(t *testing.T, node, script string) {
	t.Helper()
	if out, err := onNode(t.Context(), node, script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// smallDisk puts a file system of its own in the place of a folder of the node, with what the folder held, until
// the test ends. The agent sees it from its next start on.
func smallDisk(t *testing.T, node, dir, size string) {
	t.Helper()
	small := "/run/small" + dir
	mustOnNode(t, node, fmt.Sprintf(`mkdir -p %[1]s; mount -t tmpfs -o size=%[3]s tmpfs %[1]s; cp -a %[2]s/. %[1]s/; mount --bind %[1]s %[2]s`, small, dir, size))
	t.Cleanup(func() {
		// What was written meanwhile goes to the disk, before an agent starts that reads it there.
		script := fmt.Sprintf(`umount %[2]s; rm -f %[1]s/filler; cp -a %[1]s/. %[2]s/; umount -l %[1]s`, small, dir)
		if out, err := onNode(context.Background(), node, script); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if err := restartAgent(context.Background(), node); err != nil {
			t.Error(err)
		}
	})
}

// restartAgent kills the agent of a node and waits for the next one to be ready.
func restartAgent(ctx context.Context, node string) error {
	before, err := agentPod(ctx, node)
	if err != nil {
		return err
	}
	if _, err := cluster.Testbed(ctx, "fault", "kill", "agent", "--node="+node); err != nil {
		return err
	}
	return harness.Eventually(ctx, 2*time.Minute, "the agent of "+node+" is ready again", func(ctx context.Context) error {
		now, err := agentPod(ctx, node)
		if err != nil {
			return err
		}
		if s := now.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount == before.Status.ContainerStatuses[0].RestartCount || !s[0].Ready {
			return fmt.Errorf("its containers are %+v", s)
		}
		return nil
	})
}

func agentPod(ctx context.Context, node string) (*corev1.Pod, error) {
	pods, err := cluster.Client.CoreV1().Pods(harness.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) == 0 {
		return nil, fmt.Errorf("%d agents on %s", len(pods.Items), node)
	}
	return &pods.Items[0], nil
}

// awaitLog waits until the agent of a node has said so.
func awaitLog(t *testing.T, node string, parts ...string) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, fmt.Sprintf("the agent of %s says %q", node, parts), func(ctx context.Context) error {
		pod, err := agentPod(ctx, node)
		if err != nil {
			return err
		}
		out, err := cluster.Client.CoreV1().Pods(harness.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			all := true
			for _, part := range parts {
				all = all && strings.Contains(line, part)
			}
			if all {
				t.Log(strings.TrimSpace(line))
				return nil
			}
		}
		return fmt.Errorf("its log of %d bytes does not say so", len(out))
	})
	if err != nil {
		t.Error(err)
	}
}

// createPod asks for a Pod without waiting for it; it goes when the test ends.
func createPod(t *testing.T, name, node string) {
	t.Helper()
	spec := podSpec("pause")
	spec.NodeName = node
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
	pods := cluster.Client.CoreV1().Pods(harness.ProbeNamespace)
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pods.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// TestFullDisk fills the file system of the agent's state and starts the agent again. The mesh goes on and the
// node's Pods too; a new Pod waits, and is told why; a Pod that goes is gone when there is room again, and nothing
// that was recorded is lost.
func TestFullDisk(t *testing.T) {
	const node = "tb-node3"
	smallDisk(t, node, stateDir, "2m")
	if err := restartAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	createPod(t, "before-full", node)
	if _, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app=before-full", 1, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	ends := hostEnds(t)
	mustOnNode(t, node, "dd if=/dev/zero of="+stateDir+"/filler bs=4k 2>/dev/null || true; ! (echo x > "+stateDir+"/more) 2>/dev/null")
	if err := restartAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, node, "the attachment log cannot be written", "no space left on device")
	createPod(t, "on-full", node)
	awaitPodEvent(t, "on-full", "no space left on device")
	checkAllPairs(t)
	if err := cluster.Client.CoreV1().Pods(harness.ProbeNamespace).Delete(t.Context(), "before-full", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}

	mustOnNode(t, node, "rm -f "+stateDir+"/filler "+stateDir+"/more")
	ready, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app=on-full", 1, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	checkDistinct(t, append(ready, probes.Pods...))
	if _, err := cluster.WaitPods(t.Context(), harness.ProbeNamespace, "app=before-full", 0, 2*time.Minute); err != nil {
		t.Error(err)
	}
	err = harness.Eventually(t.Context(), time.Minute, "the Pod that went has left nothing", func(context.Context) error {
		if now := hostEnds(t); now != ends { // one more and one less
			return fmt.Errorf("%d host ends of Pods, want %d", now, ends)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	checkAllPairs(t)
}

func awaitPodEvent(t *testing.T, pod, says string) {
	t.Helper()
	err := harness.Eventually(t.Context(), 2*time.Minute, fmt.Sprintf("an event of Pod %s says %q", pod, says), func(ctx context.Context) error {
		events, err := cluster.Client.CoreV1().Events(harness.ProbeNamespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var last string
		for _, e := range events.Items {
			if last = e.Reason + ": " + e.Message; strings.Contains(last, says) {
				t.Log(last)
				return nil
			}
		}
		return fmt.Errorf("%d events, the last is %q", len(events.Items), last)
	})
	if err != nil {
		t.Error(err)
	}
}
