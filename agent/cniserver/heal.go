//go:build linux

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
)

// Heal compares the attachments with the kernel's links. An attachment without its link has lost its
// Pod, with which the namespace and both ends went, or was never finished: it ends. A link without an
// attachment is taken in with the addresses that are routed to it, so that they are not given to
// another; without any it was never finished, and is removed.
func (s *Server) Heal(ctx context.Context) error {
	before := s.book.idle()
	found, err := s.cfg.Pods.Observe()
	if err != nil {
		return err
	}
	var errs []error
	for _, hostLink := range before {
		if has(found, hostLink) {
			continue
		}
		if err := s.forgetLost(ctx, hostLink); err != nil {
			errs = append(errs, err)
		}
	}
	for _, f := range found {
		if err := s.takeIn(f); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func has(found []pod.Found, hostLink string) bool {
	return slices.ContainsFunc(found, func(f pod.Found) bool { return f.HostLink == hostLink })
}

// forgetLost ends an attachment whose link was missing, if it still is: meanwhile a DEL and another
// ADD may have come.
func (s *Server) forgetLost(ctx context.Context, hostLink string) error {
	unlock := s.book.lock(hostLink)
	defer unlock()
	found, err := s.cfg.Pods.Observe()
	if err != nil {
		return err
	}
	a, phase, known := s.book.get(hostLink)
	if !known || phase == adding || has(found, hostLink) {
		return nil
	}
	s.cfg.Logger.Info("the pod's link is gone; its addresses are released", "attachment", a.String())
	return s.remove(ctx, hostLink)
}

func (s *Server) takeIn(f pod.Found) error {
	unlock := s.book.lock(f.HostLink)
	defer unlock()
	if _, _, known := s.book.get(f.HostLink); known {
		return nil
	}
	found, err := s.cfg.Pods.Observe() // again, now that no request about it is under way
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(g pod.Found) bool { return g.HostLink == f.HostLink })
	if i < 0 {
		return nil
	}
	if len(found[i].Addresses) == 0 {
		s.cfg.Logger.Info("remove a pod link that was never finished", "link", f.HostLink)
		return s.cfg.Pods.Detach(f.HostLink)
	}
	a := state.Attachment{HostLink: f.HostLink, Addresses: found[i].Addresses}
	s.note(fmt.Errorf("the kernel has pod link %s with %v, which the log in %s does not know: its addresses stay in use until its pod is gone", a.HostLink, a.Addresses, s.cfg.StateDir))
	if err := s.book.adopt(a); err != nil {
		return fmt.Errorf("take in %s: %w", a, err)
	}
	s.notify()
	return nil
}
