package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/harness"
)

// clusterPolicySet is no set of Kubernetes' suite: the conformance suite of ClusterNetworkPolicy is its own
// project's, and a Go test, in the module clusterPolicyTools.
const (
	clusterPolicySet    = "cluster-network-policy"
	clusterPolicyModule = "sigs.k8s.io/network-policy-api"
	clusterPolicyCRD    = "policy.networking.k8s.io_clusternetworkpolicies.yaml"
)

var clusterPolicyTools = filepath.Join("tools", "network-policy-api")

// clusterPolicy installs the CRD with everything that the suite asks for (the experimental channel has node
// peers), runs the suite, and leaves its report as a file.
func clusterPolicy(ctx context.Context, cluster *harness.Cluster) error {
	report := filepath.Join(cluster.Root, "dist", "upstream", clusterPolicySet)
	if err := os.MkdirAll(report, 0o755); err != nil {
		return fmt.Errorf("make the report's folder: %w", err)
	}
	tools := filepath.Join(cluster.Root, clusterPolicyTools)
	module, err := moduleFolder(ctx, tools, clusterPolicyModule)
	if err != nil {
		return err
	}
	crd := filepath.Join(module, "config", "crd", "experimental", clusterPolicyCRD)
	if err := kubectl(ctx, cluster, "apply", "--server-side", "--force-conflicts", "-f", crd); err != nil {
		return err
	}
	args := []string{"test", "-C", tools, "-count=1", "-v", "-timeout=40m"}
	sctp := kernelSpeaksSCTP()
	if !sctp {
		modfile, err := withoutSCTP(cluster.Root, tools, module)
		if err != nil {
			return err
		}
		args = append(args, "-modfile="+modfile)
	}
	args = append(args, ".", "-report="+filepath.Join(report, "report.yaml"), fmt.Sprintf("-sctp=%t", sctp))
	if version := os.Getenv("VERSION"); version != "" {
		args = append(args, "-implementation="+version)
	}
	err = goTest(ctx, cluster, filepath.Join(report, "log.txt"), args)
	// The next suite on this cluster shall find it as it was.
	return errors.Join(err, kubectl(context.WithoutCancel(ctx), cluster, "delete", "--ignore-not-found", "-f", crd))
}

// goTest runs the suite and keeps what it says in a file, too.
func goTest(ctx context.Context, cluster *harness.Cluster, log string, args []string) error {
	file, err := os.Create(log)
	if err != nil {
		return fmt.Errorf("make the suite's log: %w", err)
	}
	defer file.Close()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = cluster.Root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(cluster.Root, ".testbed", "kubeconfig"))
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, file), io.MultiWriter(os.Stderr, file)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run the conformance suite of ClusterNetworkPolicy (report in %s): %w", filepath.Dir(log), err)
	}
	return nil
}

func kubectl(ctx context.Context, cluster *harness.Cluster, args ...string) error {
	args = append([]string{"--kubeconfig=" + filepath.Join(cluster.Root, ".testbed", "kubeconfig")}, args...)
	out, err := harness.Command(ctx, cluster.Root, nil, harness.Bin(cluster.Root, "kubectl"), args...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// moduleFolder is where a module that tools needs is in the module cache.
func moduleFolder(ctx context.Context, tools, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", `go mod download "$0" && go list -m -f '{{.Dir}}' "$0"`, module)
	cmd.Dir, cmd.Stderr = tools, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// kernelSpeaksSCTP : the nodes are network namespaces of this kernel.
func kernelSpeaksSCTP() bool {
	fd, err := unix.Socket(syscall.AF_INET, syscall.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}
