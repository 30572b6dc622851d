// Package harness drives the testbed's cluster for the demo, the end-to-end tests and the
// benchmarks: it runs the testbed's commands, installs Weftnet with Helm, places probe Pods and
// asks them who can reach whom.
package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Cluster is a testbed cluster that is up.
type Cluster struct {
	// Root is the top folder of the repository, which holds .testbed and helm.
	Root string
	// Out receives the progress of long commands.
	Out io.Writer
	// Client reads and writes the built-in kinds.
	Client kubernetes.Interface
	// Mesh reads and writes the kinds of weftnet.io too.
	Mesh client.Client

	config *rest.Config
}

// Root finds the top folder of the repository: the nearest one above that holds go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working folder: %w", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("find the repository: no go.mod in this folder or above it")
}

// Open connects to the testbed's cluster below root.
func Open(root string, out io.Writer) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(root, ".testbed", "kubeconfig"))
	if err != nil {
		return nil, fmt.Errorf("read the testbed's kubeconfig (is the cluster up? `make cluster-up`): %w", err)
	}
	config.QPS, config.Burst = 200, 400 // the tests create Pods in bursts; the default of 5 per second would hide what they measure
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	if err := v1alpha1.AddToScheme(scheme.Scheme); err != nil {
		return nil, fmt.Errorf("register weftnet.io: %w", err)
	}
	log.SetLogger(logr.Discard()) // what goes wrong comes back as an error
	mesh, err := client.New(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return nil, fmt.Errorf("make a client for weftnet.io: %w", err)
	}
	return &Cluster{Root: root, Out: out, Client: typed, Mesh: mesh, config: config}, nil
}

// Bin is the path of a program that the testbed built.
func Bin(root, name string) string { return filepath.Join(root, ".testbed", "bin", name) }

// Command runs a program in the repository's folder and returns what it printed on standard
// output. An error carries the end of what it printed on standard error.
func Command(ctx context.Context, root string, out io.Writer, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(root, ".testbed", "kubeconfig"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if out != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, out), io.MultiWriter(&stderr, out)
	}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, tail(stderr.String()+stdout.String(), 2000))
	}
	return stdout.String(), nil
}

// Testbed runs one of the testbed's commands, such as "up" or "fault".
func Testbed(ctx context.Context, root string, out io.Writer, args ...string) (string, error) {
	bin := Bin(root, "testbed")
	if _, err := Command(ctx, root, out, "go", "build", "-o", bin, "./test/testbed"); err != nil {
		return "", err
	}
	return Command(ctx, root, out, bin, args...)
}

// Testbed runs one of the testbed's commands on this cluster.
func (c *Cluster) Testbed(ctx context.Context, args ...string) (string, error) {
	return Testbed(ctx, c.Root, c.Out, args...)
}

// Exec runs a command in a Pod's first container and returns what it printed.
func (c *Cluster) Exec(ctx context.Context, pod *corev1.Pod, command ...string) (string, error) {
	request := c.Client.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(c.config, "POST", request.URL())
	if err != nil {
		return "", fmt.Errorf("open exec to Pod %s: %w", pod.Name, err)
	}
	var stdout, stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return stdout.String(), fmt.Errorf("run %q in Pod %s: %w: %s", strings.Join(command, " "), pod.Name, err, tail(stderr.String(), 1000))
	}
	return stdout.String(), nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	return "..." + s[len(s)-n:]
}
