package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weftnet/test/harness"
)

// runner runs sets of the suite on a cluster that is up.
type runner struct {
	options

	root    string
	cluster *harness.Cluster
}

// all runs every set, whatever came of those before: one run should tell everything that is wrong.
func (r runner) all(ctx context.Context) error {
	var faults []error
	var lines []string
	for _, set := range r.runs {
		result, err := r.run(ctx, set)
		if err != nil {
			faults = append(faults, fmt.Errorf("set %s: %w", set.name, err))
		}
		lines = append(lines, result...)
	}
	fmt.Println("\n" + strings.Join(lines, "\n"))
	return errors.Join(faults...)
}

// report is the folder of a set's report.
func (r runner) report(set named) string { return filepath.Join(r.root, "dist", "upstream", set.name) }

// run runs a set and says in lines what came of its tests.
func (r runner) run(ctx context.Context, set named) ([]string, error) {
	if set.name == clusterPolicySet {
		if err := clusterPolicy(ctx, r.cluster); err != nil {
			return []string{set.name + ": failed, see log.txt in " + r.report(set)}, err
		}
		return []string{set.name + ": passed, its report is in " + r.report(set)}, nil
	}
	failed := r.suite(ctx, set)
	summary, err := summarize(r.report(set))
	return summary.lines(set.name), errors.Join(failed, err)
}

// suite runs a set of Kubernetes' own suite, with what it needs besides the cluster.
func (r runner) suite(ctx context.Context, set named) (err error) {
	if err := os.RemoveAll(r.report(set)); err != nil { // an old report is no result
		return fmt.Errorf("remove the last report: %w", err)
	}
	if set.name == loadBalancerSet {
		stop, err := startBalancer(r.root)
		if err != nil {
			return err
		}
		defer stop()
	}
	if set.nodes > r.nodes {
		shrink, grown := r.grow(ctx, set.nodes)
		defer func() { err = errors.Join(err, shrink()) }()
		if grown != nil {
			return grown
		}
		r.nodes = set.nodes
	}
	return r.ginkgo(ctx, set)
}

// grow adds nodes for a set that wants more of them. What it returns takes them away again, also after
// a failure.
func (r runner) grow(ctx context.Context, nodes int) (shrink func() error, err error) {
	var added []string
	shrink = func() error {
		ctx := context.WithoutCancel(ctx)
		var errs []error
		for _, name := range added {
			_, err := r.cluster.Testbed(ctx, "node", "remove", name)
			errs = append(errs, err)
		}
		return errors.Join(append(errs, r.cluster.WaitNodes(ctx, r.nodes, 2*time.Minute))...)
	}
	for range nodes - r.nodes {
		out, err := r.cluster.Testbed(ctx, "node", "add")
		if err != nil {
			return shrink, err
		}
		words := strings.Fields(out) // its last word is the node's name
		added = append(added, words[len(words)-1])
	}
	if err := r.cluster.LoadImages(ctx); err != nil {
		return shrink, err
	}
	if err := r.cluster.WaitNodes(ctx, nodes, 4*time.Minute); err != nil {
		return shrink, err
	}
	return shrink, r.cluster.LabelZones(ctx)
}

// ginkgo runs a set of the suite. The flags are those that the suite's own users give it on clusters
// that no cloud provider made.
func (r runner) ginkgo(ctx context.Context, set named) error {
	report := r.report(set)
	if err := os.MkdirAll(report, 0o755); err != nil {
		return fmt.Errorf("make the report's folder: %w", err)
	}
	procs := r.procs
	if set.alone {
		procs = 1
	}
	args := []string{"--nodes=" + strconv.Itoa(procs), "--focus=" + set.focus, "--no-color"}
	if set.skip != "" {
		args = append(args, "--skip="+set.skip)
	}
	args = append(args, harness.Bin(r.root, "e2e.test"), "--",
		"--kubeconfig="+filepath.Join(r.root, ".testbed", "kubeconfig"),
		"--provider=skeleton", "--num-nodes="+strconv.Itoa(r.nodes), "--disable-log-dump=true", "--dump-logs-on-failure=false",
		"--report-dir="+report)
	cmd := exec.CommandContext(ctx, harness.Bin(r.root, "ginkgo"), args...)
	cmd.Dir = r.root
	// Ginkgo asks the go command, in the folder of the suite's binary, for the version that the suite was built with.
	modfile := filepath.Join(r.root, "tools", "kubernetes", "go.mod")
	cmd.Env = append(os.Environ(), "KUBERNETES_CONFORMANCE_TEST=y",
		"GOFLAGS="+os.Getenv("GOFLAGS")+" '-modfile="+modfile+"'",
		"PATH="+filepath.Join(r.root, ".testbed", "bin")+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets ginkgo clean up its namespaces
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run the upstream tests (report in %s): %w", report, err)
	}
	return nil
}
