package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// startBalancer runs the testbed's load balancer, as a cloud would, for as long as a set needs it: a
// controller that takes up every Service of type LoadBalancer would get in the way of other tests.
// What an interrupted run leaves of it, `testbed down` removes.
func startBalancer(root string) (stop func(), err error) {
	if err := underlay.EnsureBalancer(layout.Dual); err != nil {
		return nil, err
	}
	l := layout.Layout{Root: root}
	process, err := proc.Start(proc.Spec{
		Path: harness.Bin(root, layout.BalancerProgram), NetNS: layout.Balancer, Log: l.Log(layout.BalancerProgram),
		Args: []string{"--kubeconfig=" + l.Kubeconfig(), "--ranges=" + layout.Join(layout.BalancerRanges(layout.Dual))},
	})
	if err != nil {
		return nil, fmt.Errorf("start the load balancer: %w", err)
	}
	return func() {
		if err := process.Stop(context.Background(), 5*time.Second); err != nil {
			fmt.Fprintln(os.Stderr, "stop the load balancer:", err)
		}
		if err := underlay.RemoveBalancer(); err != nil {
			fmt.Fprintln(os.Stderr, "remove the load balancer:", err)
		}
	}, nil
}
