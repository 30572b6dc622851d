package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// Fault puts packet faults in force, in the place of any between the same sides.
func (c *Cluster) Fault(rules ...fault.Rule) error {
	var errs []error
	for _, r := range rules {
		errs = append(errs, r.Validate())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.changeFaults(func(have []fault.Rule) []fault.Rule { return fault.Add(have, rules) })
}

// Heal takes matching packet faults away.
func (c *Cluster) Heal(match func(fault.Rule) bool) error {
	return c.changeFaults(func(have []fault.Rule) []fault.Rule { return fault.Remove(have, match) })
}

func (c *Cluster) changeFaults(f func([]fault.Rule) []fault.Rule) error {
	return c.change(true, func(s *session) error {
		err := s.rec.Update(func(state *record.State) { state.Faults = f(state.Faults) })
		if err != nil {
			return err
		}
		return s.loadFaults()
	})
}

func (s *session) loadFaults() error { return fault.Load(s.rec.State().Faults) }

// SetLink takes a node's cable out, or puts it back.
func (c *Cluster) SetLink(n layout.Node, up bool) error {
	return c.changeNode(n, func(s *session, entry *record.Node) error {
		entry.LinkDown = !up
		return underlay.SetPort(n, up)
	})
}

// Move gives a node other addresses on the underlay, or its first ones back. The kubelet starts anew, as
// one does whose --node-ip has changed, and the Node object follows.
func (c *Cluster) Move(n layout.Node, away bool) error {
	return c.changeNode(n, func(s *session, entry *record.Node) error {
		if n == 1 || entry.NAT != "" {
			return fmt.Errorf("move %s: the API server's node stays, and so does one behind a NAT", n)
		}
		if entry.Moved == away {
			return nil
		}
		options := s.rec.State().Options
		before := addrsOf(n, options.Family, *entry)
		entry.Moved = away
		if err := underlay.Readdress(n, options.Family, before, addrsOf(n, options.Family, *entry)); err != nil {
			return err
		}
		config := s.nodeConfig(n, options, 0)
		config.Addrs = addrsOf(n, options.Family, *entry)
		if err := node.WritePlan(config); err != nil {
			return err
		}
		_, err := fault.Signal([]layout.Node{n}, "kubelet", syscall.SIGTERM)
		return err
	})
}

// changeNode changes a node and its entry in the record.
func (c *Cluster) changeNode(n layout.Node, f func(*session, *record.Node) error) error {
	return c.change(true, func(s *session) error {
		entry, ok := s.rec.State().Nodes[n.String()]
		if !ok {
			return fmt.Errorf("find %s: no such node in the cluster", n)
		}
		if err := f(s, &entry); err != nil {
			return err
		}
		return s.rec.Update(func(state *record.State) { state.Nodes[n.String()] = entry })
	})
}

// The kinds of NAT: a plain one keeps a port for all destinations where it
// can, a symmetric one takes a random port for each.
const (
	PlainNAT     = "plain"
	SymmetricNAT = "symmetric"
)

// AddNAT puts a NAT router in front of a node. With a timeout it forgets idle UDP flows so soon, whatever
// WireGuard's keepalives from outside say.
func (c *Cluster) AddNAT(n layout.Node, kind string, timeout time.Duration) error {
	if kind != PlainNAT && kind != SymmetricNAT {
		return fmt.Errorf("nat %q: want %s or %s", kind, PlainNAT, SymmetricNAT)
	}
	return c.changeNode(n, func(s *session, entry *record.Node) error {
		if entry.Moved {
			return fmt.Errorf("put %s behind a NAT: it has moved; heal that first", n)
		}
		entry.NAT, entry.NATTimeout = kind, timeout
		if err := underlay.EnsureRouter(n, s.rec.State().Options.Family, natOf(*entry)); err != nil {
			return err
		}
		// Mappings made by another kind of NAT would live on.
		if err := underlay.ForgetMappings(n); err != nil {
			return err
		}
		return s.forget(n)
	})
}

// RemoveNAT takes the router away.
func (c *Cluster) RemoveNAT(n layout.Node) error {
	return c.changeNode(n, func(s *session, entry *record.Node) error {
		entry.NAT, entry.NATTimeout = "", 0
		if err := underlay.RemoveRouter(n, s.rec.State().Options.Family); err != nil {
			return err
		}
		return s.forget(n)
	})
}

func natOf(entry record.Node) underlay.NAT {
	return underlay.NAT{Symmetric: entry.NAT == SymmetricNAT, UDPTimeout: entry.NATTimeout}
}

func (s *session) wireBehindNAT(n layout.Node, nat underlay.NAT, sysctls map[string]string) error {
	family := s.rec.State().Options.Family
	if !underlay.HasRouter(n) {
		if err := underlay.EnsureNode(n, family, n.Addrs(family), sysctls); err != nil {
			return err
		}
	}
	return underlay.EnsureRouter(n, family, nat)
}

// forget makes the node and all others forget each other's hardware
// addresses, which changed with the router.
func (s *session) forget(n layout.Node) error {
	state := s.rec.State()
	var all, own []netip.Addr
	for _, other := range state.NodeList() {
		for _, p := range other.Addrs(state.Options.Family) {
			all = append(all, p.Addr())
			if other == n {
				own = append(own, p.Addr())
			}
		}
	}
	for _, p := range layout.BridgeAddrs(state.Options.Family) {
		all = append(all, p.Addr())
	}
	errs := []error{underlay.FlushNeighbors("", own), underlay.FlushNeighbors(n.String(), all)}
	for _, other := range state.NodeList() {
		if other != n {
			errs = append(errs, underlay.FlushNeighbors(other.String(), own))
		}
	}
	return errors.Join(errs...)
}

// HealAll takes every fault away: packets, cables, NATs, held processes and a
// stopped control plane.
func (c *Cluster) HealAll(ctx context.Context) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	errs := []error{c.Heal(func(fault.Rule) bool { return true })}
	for _, n := range state.NodeList() {
		entry := state.Nodes[n.String()]
		if entry.NAT != "" {
			errs = append(errs, c.RemoveNAT(n))
		}
		if entry.Moved {
			errs = append(errs, c.Move(n, false))
		}
		if entry.LinkDown {
			errs = append(errs, c.SetLink(n, true))
		}
		errs = append(errs, fault.ResumeHeld(n))
	}
	return errors.Join(append(errs, c.StartAPI(ctx))...)
}

// Signal sends a signal to a program on some nodes, or on all when none is
// named, and says to how many processes.
func (c *Cluster) Signal(nodes []layout.Node, program string, sig syscall.Signal) (int, error) {
	if len(nodes) == 0 {
		state, err := c.State()
		if err != nil {
			return 0, err
		}
		nodes = state.NodeList()
	}
	return fault.Signal(nodes, program, sig)
}

// StopAPI stops the API server.
func (c *Cluster) StopAPI(ctx context.Context) error {
	return c.change(true, func(s *session) error {
		return s.stopControl(ctx, 3*time.Second, control.APIServer)
	})
}

// StartAPI starts what does not run of the control plane and waits for it.
func (c *Cluster) StartAPI(ctx context.Context) error {
	return c.change(true, func(s *session) error { return s.startControlPlane(ctx) })
}
