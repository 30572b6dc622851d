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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/proxydial"
	"github.com/weftnet/weftnet/test/requester"
)

const nodes = 3

var (
	cluster *harness.Cluster
	probes  *harness.Probes
)

func TestMain(m *testing.M) {
	if proxydial.Main() || requester.Main() {
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
	options := harness.Options{Nodes: nodes, Proxy: "none", Out: os.Stderr, Helm: []string{
		// What the rolling update's 1,000 small packets a second each way need on a node whose processors are all taken
		// (docs/operations.md, "Processor time for the userspace WireGuard").
		"--set", "wireguard.resources.requests.cpu=500m",
	}}
	if cluster, err = harness.Ensure(ctx, root, options); err != nil {
		return err
	}
	if probes, err = cluster.StartProbes(ctx, nodes); err != nil {
		return err
	}
	return removeServices(ctx)
}

// removeServices clears away what a run that was killed has left: it may hold the addresses that the
// tests give to load balancers.
func removeServices(ctx context.Context) error {
	services := cluster.Client.CoreV1().Services(namespace)
	left, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list what an earlier run has left: %w", err)
	}
	for _, s := range left.Items {
		if err := services.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Service %s: %w", s.Name, err)
		}
	}
	return nil
}
