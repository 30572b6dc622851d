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
	"github.com/weftnet/weftnet/test/testbed/audit"
)

const nodes = 3

// chartValues are what the tests set besides the API server's address.
var chartValues = []string{"--set", "cleanup.onUninstall=true"}

var (
	cluster *harness.Cluster
	probes  *harness.Probes

	leaks      *audit.Audit
	auditEnded bool
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
	if leaks, err = cluster.StartAudit(ctx); err != nil {
		return 1, err
	}
	if cluster, err = harness.Ensure(ctx, root, options); err != nil {
		return 1, err
	}
	if probes, err = cluster.StartProbes(ctx, nodes); err != nil {
		return 1, err
	}
	code = m.Run()
	if auditEnded {
		return code, nil
	}
	return code, stopAudit(ctx)
}

// stopAudit ends the leak audit, prints its report, and gives what it found as an error.
func stopAudit(ctx context.Context) error {
	auditEnded = true
	report, err := leaks.Stop(ctx)
	if err != nil {
		return err
	}
	fmt.Fprint(os.Stderr, report)
	return report.Err()
}

// endAudit ends the leak audit before a test that takes Weftnet away.
func endAudit(t *testing.T) {
	t.Helper()
	if err := stopAudit(t.Context()); err != nil {
		t.Error(err)
	}
}
