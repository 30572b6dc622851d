// Command upstream runs Kubernetes' own end-to-end tests of sig-network against Weftnet on the
// testbed, and tells how many passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
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
	helm         []string
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
	flags.Func("helm-set", "a value of the chart, as with helm's --set, such as serviceProxy.socketLB=off; may be repeated", func(value string) error {
		o.helm = append(o.helm, "--set", value)
		return nil
	})
	flags.StringVar(&names, "set", "conformance", "which tests, several with commas between: "+strings.Join(append(setNames(), clusterPolicySet), ", "))
	flags.BoolVar(&o.write, "write-list", false, "only write the list of the suite's tests, and docs/upstream.md from it")
	flags.StringVar(&focus, "focus", "", "a regular expression of test names, instead of a set")
	flags.StringVar(&skip, "skip", "", "a regular expression of test names to leave out, instead of the set's")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if focus != "" {
		o.runs = []named{{"focus", set{focus: focus, skip: skip}}}
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
	ensure := harness.Options{
		Nodes: o.nodes, Proxy: o.proxy, Helm: o.helm, Sets: []string{"upstream"}, Out: os.Stdout,
		StorageLimits: slices.ContainsFunc(o.runs, func(r named) bool { return r.name != clusterPolicySet && r.in(evicted) }),
	}
	cluster, err := harness.Ensure(ctx, root, ensure)
	if err != nil {
		return err
	}
	if err := errors.Join(checkList(ctx, root), cluster.LabelZones(ctx)); err != nil {
		return err
	}
	return runner{options: o, root: root, cluster: cluster}.all(ctx)
}
