//go:build e2e

// Package e2e tests Weftnet on a real cluster: the testbed, with Weftnet as its only network. One
// cluster serves all tests of a run, in the order of the files; the leak audit listens over all of it.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
)

const nodes = 3

// chartValues are what the tests set besides the API server's address.
var chartValues = []string{"--set", "cleanup.onUninstall=true"}

var (
	cluster *harness.Cluster
	probes  *harness.Probes
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(context.Background(), m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int, err error) {
	root, err := harness.Root()
	if err != nil {
		return 1, err
	}
	options := harness.Options{Nodes: nodes, Helm: chartValues, Out: os.Stderr}
	if err := harness.Build(ctx, root, options); err != nil {
		return 1, err
	}
	if cluster, err = harness.Up(ctx, root, options); err != nil {
		return 1, err
	}
	audit, err := cluster.StartAudit(ctx)
	if err != nil {
		return 1, err
	}
	if cluster, err = harness.Ensure(ctx, root, options); err != nil {
		return 1, err
	}
	if probes, err = cluster.StartProbes(ctx, nodes); err != nil {
		return 1, err
	}
	code = m.Run()
	report, err := audit.Stop(ctx)
	if err != nil {
		return 1, err
	}
	fmt.Fprint(os.Stderr, report)
	return code, report.Err()
}
