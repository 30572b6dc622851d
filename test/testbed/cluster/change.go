package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// AddNode adds the first node that is not there and returns it registered.
func (c *Cluster) AddNode(ctx context.Context) (layout.Node, error) {
	var added layout.Node
	err := c.change(true, func(s *session) error {
		have := s.rec.State().NodeList()
		for _, n := range layout.Nodes(layout.MaxNodes) {
			if !slices.Contains(have, n) {
				added = n
				break
			}
		}
		if added == 0 {
			return fmt.Errorf("add a node: there are %d, the most possible", len(have))
		}
		template, err := s.materials(ctx, s.rec.State().Options)
		if err != nil {
			return err
		}
		err = s.rec.Update(func(state *record.State) { state.Nodes[added.String()] = record.Node{} })
		if err != nil {
			return err
		}
		if err := s.preload(ctx, added, template); err != nil {
			return err
		}
		if err := s.startAll(ctx, template); err != nil {
			return err
		}
		return s.finish(ctx)
	})
	return added, err
}

// preload gives a new node the images that the others were given, before its kubelet asks for them: one that
// does not find an image asks a registry that is not there, and then waits ever longer before it looks again.
func (s *session) preload(ctx context.Context, n layout.Node, template string) error {
	c := node.Config{Layout: s.Layout, Node: n}
	if err := node.UseTemplate(c, template); err != nil {
		return err
	}
	there := slices.DeleteFunc(slices.Clone(s.rec.State().Loaded), func(archive string) bool {
		_, err := os.Stat(archive)
		return err != nil // of a test that has ended
	})
	if len(there) == 0 {
		return nil
	}
	if err := node.Preload(ctx, c, s.program, there); err != nil {
		return fmt.Errorf("load images for %s: %w", n, err)
	}
	s.say("%s has the images of %d archives", n, len(there))
	return nil
}

// RemoveNode takes a node out of the cluster, with its disk.
func (c *Cluster) RemoveNode(ctx context.Context, n layout.Node) error {
	return c.change(true, func(s *session) error {
		state := s.rec.State()
		entry, ok := state.Nodes[n.String()]
		if !ok {
			return nil
		}
		if n == 1 {
			return fmt.Errorf("remove %s: the control plane runs there", n)
		}
		// First the machine, or its kubelet registers it again.
		if err := s.haltNode(ctx, n, entry); err != nil {
			return err
		}
		client, err := s.Client()
		if err != nil {
			return err
		}
		if err := deleteNodeObject(ctx, client, n); err != nil {
			return err
		}
		if err := os.RemoveAll(s.Layout.NodeDir(n.String())); err != nil {
			return fmt.Errorf("remove the disk of %s: %w", n, err)
		}
		err = s.rec.Update(func(state *record.State) {
			delete(state.Nodes, n.String())
			state.Faults = fault.Remove(state.Faults, func(r fault.Rule) bool { return r.From == n || r.To == n })
		})
		if err != nil {
			return err
		}
		return s.loadFaults()
	})
}

// haltNode ends all of a node but its disk.
func (s *session) haltNode(ctx context.Context, n layout.Node, entry record.Node) error {
	if n == 1 {
		if err := s.stopControl(ctx, 0, control.Names()...); err != nil {
			return err
		}
	}
	if err := node.Stop(ctx, n, entry.Init); err != nil {
		return err
	}
	if err := cgroup.Remove(ctx, n.String()); err != nil {
		return err
	}
	return underlay.RemoveNode(n)
}

// Reboot ends everything on a node, at once as in a power cut, and starts it
// again: its disk is kept, its /run and its network namespace are new. With
// the first node the control plane restarts. It returns when the node's first
// process runs; its kubelet reports later.
func (c *Cluster) Reboot(ctx context.Context, n layout.Node) error {
	return c.change(true, func(s *session) error {
		state := s.rec.State()
		entry, ok := state.Nodes[n.String()]
		if !ok {
			return fmt.Errorf("reboot %s: no such node in the cluster", n)
		}
		if err := s.haltNode(ctx, n, entry); err != nil {
			return err
		}
		if err := s.wire(n); err != nil {
			return err
		}
		// The disk is there, so no template is needed; and a machine that
		// boots does not wait for the API server.
		if err := s.startNode(n, "", 0); err != nil {
			return err
		}
		if n != 1 {
			return nil
		}
		return s.startControlPlane(ctx)
	})
}
