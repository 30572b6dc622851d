//go:build e2e

// Package service tests Weftnet's service proxy on a real cluster of three nodes, dual stack, that
// has no kube-proxy: every kind of Service, from Pods, from nodes and from outside the cluster, and
// what must hold while endpoints roll, programs die and others meddle.
package service

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/proxydial"
)

const nodes = 3

var (
	cluster *harness.Cluster
	probes  *harness.Probes
)

func TestMain(m *testing.M) {
	if proxydial.Main() {
		return
	}
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
	options := harness.Options{Nodes: nodes, Proxy: "none", Out: os.Stderr}
	if cluster, err = harness.Ensure(ctx, root, options); err != nil {
		return err
	}
	probes, err = cluster.StartProbes(ctx, nodes)
	return err
}
