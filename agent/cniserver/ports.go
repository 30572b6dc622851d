//go:build linux

package cniserver

import (
	"context"
	"fmt"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/state"
)

// Flows cuts flows that the kernel tracks; it is agent/kernel/conntrack.Kernel.
type Flows interface {
	Delete(ctx context.Context, filters ...conntrack.Filter) (int, error)
}

// enforce puts the rules of an attachment in force, and cuts the UDP flows to its host ports that
// somebody else answers: they would last as long as the client sends.
func (s *Server) enforce(ctx context.Context, a state.Attachment) error {
	if err := s.cfg.Rules.Add(ctx, a); err != nil {
		return fmt.Errorf("put the rules of the pod in force: %w", err)
	}
	return s.cut(ctx, a, func(h state.HostPort, i int) conntrack.Filter {
		return conntrack.HostPortOpened(h.HostPort, h.HostIP, a.Addresses[i])
	})
}

// withdraw takes the rules away, and cuts the UDP flows that they led to the Pod.
func (s *Server) withdraw(ctx context.Context, a state.Attachment) error {
	if err := s.cfg.Rules.Remove(ctx, a); err != nil {
		return fmt.Errorf("remove the rules of the pod: %w", err)
	}
	return s.cut(ctx, a, func(h state.HostPort, i int) conntrack.Filter {
		return conntrack.HostPortClosed(h.HostPort, a.Addresses[i])
	})
}

// cut deletes the flows of the attachment's UDP host ports, by a filter for each port and address.
func (s *Server) cut(ctx context.Context, a state.Attachment, filter func(h state.HostPort, address int) conntrack.Filter) error {
	if s.cfg.Flows == nil {
		return nil
	}
	var filters []conntrack.Filter
	for _, h := range a.HostPorts {
		for i, ip := range a.Addresses {
			if h.Protocol == state.UDP && (!h.HostIP.IsValid() || state.FamilyOf(h.HostIP) == state.FamilyOf(ip)) {
				filters = append(filters, filter(h, i))
			}
		}
	}
	if len(filters) == 0 {
		return nil
	}
	if _, err := s.cfg.Flows.Delete(ctx, filters...); err != nil {
		return fmt.Errorf("cut UDP flows of the pod's host ports: %w", err)
	}
	return nil
}
