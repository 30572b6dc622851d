//go:build e2e

// Package policy tests network policies on a real cluster of three nodes, dual stack: what must hold
// from a Pod's first packet to the last of a flow that is forbidden, and while programs die and
// others meddle. What policies can say, the upstream suite tests.
package policy

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
)

const nodes = 3

var (
	cluster *harness.Cluster
	probes  *harness.Probes
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := setUp(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func setUp(ctx context.Context) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	if cluster, err = harness.Ensure(ctx, root, harness.Options{Nodes: nodes, Proxy: "none", Out: os.Stderr}); err != nil {
		return err
	}
	probes, err = cluster.StartProbes(ctx, nodes)
	return err
}
