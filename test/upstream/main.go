// Command upstream runs Kubernetes' own end-to-end tests of sig-network against Weftnet on the
// testbed, and tells how many passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/weftnet/weftnet/test/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "upstream:", err)
		os.Exit(1)
	}
}

type options struct {
	nodes, procs int
	proxy        string
	runs         []named
	write        bool
}

// named is a set with the name of its report's folder.
type named struct {
	name string
	set
}

func parse(args []string) (options, error) {
	var o options
	var names, focus, skip string
	flags := flag.NewFlagSet("upstream", flag.ContinueOnError)
	flags.IntVar(&o.nodes, "nodes", 3, "nodes of the cluster")
	flags.IntVar(&o.procs, "procs", 4, "tests that run at the same time")
	flags.StringVar(&o.proxy, "proxy", "none", "what serves Services: kube-proxy, or none for Weftnet's own service proxy")
	flags.StringVar(&names, "set", "conformance", "which tests, several with commas between: "+strings.Join(append(setNames(), clusterPolicySet), ", "))
	flags.BoolVar(&o.write, "write-list", false, "only write the list of the suite's tests, and docs/upstream.md from it")
	flags.StringVar(&focus, "focus", "", "a regular expression of test names, instead of a set")
	flags.StringVar(&skip, "skip", "", "a regular expression of test names to leave out, instead of the set's")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if focus != "" {
		o.runs = []named{{"focus", set{focus, skip}}}
		return o, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		chosen, known := sets[name]
		if !known && name != clusterPolicySet {
			return o, fmt.Errorf("unknown set %q: have %s, %s", name, strings.Join(setNames(), ", "), clusterPolicySet)
		}
		if skip != "" {
			chosen.skip = skip
		}
		o.runs = append(o.runs, named{name, chosen})
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := harness.Root()
	if err != nil {
		return err
	}
	if o.write {
		return writeList(ctx, root)
	}
	ensure := harness.Options{Nodes: o.nodes, Proxy: o.proxy, Sets: []string{"upstream"}, Out: os.Stdout}
	cluster, err := harness.Ensure(ctx, root, ensure)
	if err != nil {
		return err
	}
	if err := errors.Join(checkList(ctx, root), cluster.LabelZones(ctx)); err != nil {
		return err
	}
	var faults []error
	for _, r := range o.runs { // all of them: one run should tell everything that is wrong
		if err := runSet(ctx, cluster, r, o.procs); err != nil {
			faults = append(faults, fmt.Errorf("set %s: %w", r.name, err))
		}
	}
	return errors.Join(faults...)
}

func runSet(ctx context.Context, cluster *harness.Cluster, r named, procs int) error {
	if r.name == clusterPolicySet {
		return clusterPolicy(ctx, cluster)
	}
	return ginkgo(ctx, cluster.Root, r, procs)
}

// ginkgo runs a set of the suite. The flags are those that the suite's own users give it on clusters
// that no cloud provider made.
func ginkgo(ctx context.Context, root string, r named, procs int) error {
	report := filepath.Join(root, "dist", "upstream", r.name)
	if err := os.MkdirAll(report, 0o755); err != nil {
		return fmt.Errorf("make the report's folder: %w", err)
	}
	args := []string{"--nodes=" + strconv.Itoa(procs), "--focus=" + r.focus, "--no-color"}
	if r.skip != "" {
		args = append(args, "--skip="+r.skip)
	}
	args = append(args, harness.Bin(root, "e2e.test"), "--",
		"--kubeconfig="+filepath.Join(root, ".testbed", "kubeconfig"),
		"--provider=skeleton", "--disable-log-dump=true", "--dump-logs-on-failure=false",
		"--report-dir="+report)
	cmd := exec.CommandContext(ctx, harness.Bin(root, "ginkgo"), args...)
	cmd.Dir = filepath.Join(root, "tools", "kubernetes") // where ginkgo finds the version that the suite was built with
	cmd.Env = append(os.Environ(), "KUBERNETES_CONFORMANCE_TEST=y", "PATH="+filepath.Join(root, ".testbed", "bin")+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets ginkgo clean up its namespaces
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run the upstream tests (report in %s): %w", report, err)
	}
	return nil
}
