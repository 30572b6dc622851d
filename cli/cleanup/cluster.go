package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
)

// Cluster says how to clean up every node.
type Cluster struct {
	Kube       kubernetes.Interface
	Namespace  string
	Image      string
	PullPolicy corev1.PullPolicy
	// Task is what each of the nodes is to do.
	Task Task
	// Timeout for all of them together; they work at the same time.
	Timeout time.Duration
}

// Task is the work of one node: the arguments of weft that do it there with the node's file system at
// /host, and the folders of the node that it needs.
type Task interface {
	Args() []string
	Folders() []string
}

// jobLabel marks the Jobs. The node's name is no label: it may be longer than a label's value.
const jobLabel = "weftnet.io/cleanup"

// Run makes a Job on each node, waits for all, tells what each printed, and removes the Jobs
// again. A node that does not finish is named in the error.
func (c Cluster) Run(ctx context.Context, w io.Writer) error {
	nodes, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Nodes: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var jobs []batchv1.Job
	defer func() { c.removeJobs(context.WithoutCancel(ctx), jobs) }()
	for i := range nodes.Items {
		job := c.JobFor(nodes.Items[i].Name)
		made, err := c.Kube.BatchV1().Jobs(c.Namespace).Create(ctx, &job, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("make a Job for node %s: %w", nodes.Items[i].Name, err)
		}
		jobs = append(jobs, *made)
	}
	var faults []error
	for i := range jobs {
		faults = append(faults, c.await(ctx, w, &jobs[i]))
	}
	return errors.Join(faults...)
}

// await waits until a Job has ended and tells what it printed.
func (c Cluster) await(ctx context.Context, w io.Writer, job *batchv1.Job) error {
	node := job.Spec.Template.Spec.NodeName
	var failed bool
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		now, err := c.Kube.BatchV1().Jobs(c.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if err != nil {
			return false, nil // the API server may be away for a moment; the context ends the wait
		}
		failed = now.Status.Failed > 0
		return failed || now.Status.Succeeded > 0, nil
	})
	text := c.logs(context.WithoutCancel(ctx), job.Name)
	if _, err := fmt.Fprintf(w, "%s:\n%s\n", node, indent(text)); err != nil {
		return fmt.Errorf("tell of node %s: %w", node, err)
	}
	switch {
	case err != nil:
		return fmt.Errorf("node %s did not finish within %s: is it reachable, and can it pull %s?", node, c.Timeout, c.Image)
	case failed:
		return fmt.Errorf("node %s could not be cleaned: %s", node, lastLine(text))
	default:
		return nil
	}
}

func (c Cluster) logs(ctx context.Context, job string) string {
	pods, err := c.Kube.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job})
	if err != nil || len(pods.Items) == 0 {
		return fmt.Sprintf("no Pod was started: %v", err)
	}
	text, err := c.Kube.CoreV1().Pods(c.Namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return fmt.Sprintf("its output cannot be read: %v", err)
	}
	return strings.TrimSpace(string(text))
}

// removeJobs removes them whatever became of them; one that is gone already is fine.
func (c Cluster) removeJobs(ctx context.Context, jobs []batchv1.Job) {
	background := metav1.DeletePropagationBackground
	for i := range jobs {
		err := c.Kube.BatchV1().Jobs(c.Namespace).Delete(ctx, jobs[i].Name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			continue // it removes itself later: ttlSecondsAfterFinished
		}
	}
}

// JobFor is the Job that cleans one node: pinned to it, whatever its taints, in the node's own
// network, with the node's folders under /host.
func (c Cluster) JobFor(node string) batchv1.Job {
	ttl, none, directory := int32(600), int32(0), corev1.HostPathDirectoryOrCreate
	pod := corev1.PodSpec{
		NodeName:                     node,
		RestartPolicy:                corev1.RestartPolicyNever,
		HostNetwork:                  true,
		DNSPolicy:                    corev1.DNSDefault,
		AutomountServiceAccountToken: new(bool),
		Tolerations:                  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{
			Name:            "cleanup",
			Image:           c.Image,
			ImagePullPolicy: c.PullPolicy,
			Command:         []string{"/weft"},
			Args:            c.Task.Args(),
			SecurityContext: &corev1.SecurityContext{
				RunAsUser:                new(int64),
				ReadOnlyRootFilesystem:   ptr(true),
				AllowPrivilegeEscalation: ptr(false),
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
			},
		}},
	}
	for _, folder := range c.Task.Folders() {
		name := "dir-" + fmt.Sprint(len(pod.Volumes))
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder, Type: &directory}}})
		pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/host" + folder})
	}
	return batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "weftnet-cleanup-", Namespace: c.Namespace, Labels: map[string]string{jobLabel: "node"}},
		Spec: batchv1.JobSpec{
			BackoffLimit:            &none,
			TTLSecondsAfterFinished: &ttl,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{jobLabel: "node"}},
				Spec:       pod,
			},
		},
	}
}

func ptr[T any](v T) *T { return &v }

func indent(text string) string {
	return "  " + strings.ReplaceAll(text, "\n", "\n  ")
}

func lastLine(text string) string {
	return text[strings.LastIndex(text, "\n")+1:]
}
