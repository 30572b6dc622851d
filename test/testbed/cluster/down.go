package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// Down leaves the machine as it was before `up`. It goes on over errors, so
// that as much as possible is gone, and keeps the record while anything is
// left.
func (c *Cluster) Down(ctx context.Context) error {
	return c.change(false, func(s *session) error {
		state := s.rec.State()
		errs := []error{
			state.Audit.Stop(ctx, 5*time.Second),
			s.stopControl(ctx, 0, control.Names()...),
			s.stopNodes(ctx, state),
			endStrays(ctx),
		}
		for _, n := range layout.Nodes(layout.MaxNodes) {
			errs = append(errs, cgroup.Remove(ctx, n.String()))
		}
		errs = append(errs, cgroup.Remove(ctx, layout.ControlGroup), fault.Load(nil), underlay.Remove(), restoreSysctls(state.Sysctls), removeDirs(state.Dirs))
		for _, name := range []string{"nodes", "etcd", "pki", "run", "audit", "log", "kubeconfig"} {
			if err := os.RemoveAll(s.Layout.Path(name)); err != nil {
				errs = append(errs, fmt.Errorf("remove the cluster's files: %w", err))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return s.rec.Delete()
	})
}

func (s *session) stopNodes(ctx context.Context, state record.State) error {
	var group errgroup.Group
	for _, n := range state.NodeList() {
		group.Go(func() error { return node.Stop(ctx, n, state.Nodes[n.String()].Init) })
	}
	return group.Wait()
}

// endStrays ends what runs in the testbed's network namespaces although no
// record names it: a crash came between its start and the record.
func endStrays(ctx context.Context) error {
	namespaces := []string{layout.Balancer}
	for _, n := range layout.Nodes(layout.MaxNodes) {
		namespaces = append(namespaces, n.String(), n.Router())
	}
	var errs []error
	for _, name := range namespaces {
		strays, err := proc.InNamespace(underlay.NetNSFile(name))
		errs = append(errs, err)
		for _, p := range strays {
			errs = append(errs, p.Stop(ctx, 0))
		}
	}
	return errors.Join(errs...)
}
