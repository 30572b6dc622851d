//go:build linux

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weftnet/agent/attachlog"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
)

// handle carries out a request and returns what the plugin prints.
func (s *Server) handle(ctx context.Context, r request) ([]byte, *types.Error) {
	var out []byte
	var err error
	switch r.Command {
	case "ADD":
		out, err = s.add(ctx, r)
	case "DEL":
		err = s.del(ctx, r.attachment.HostLink)
	case "CHECK":
		err = s.check(r)
	case "STATUS":
		err = s.status()
	case "GC":
		err = s.collect(ctx, r)
	}
	if err != nil {
		return nil, cniError(fmt.Sprintf("%s on node %s", r.Command, s.cfg.NodeName), err)
	}
	return out, nil
}

func (s *Server) status() error {
	if err := s.cfg.Ready(); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "Weftnet is not ready on node "+s.cfg.NodeName+": "+err.Error(), "")
	}
	return nil
}

func (s *Server) add(ctx context.Context, r request) ([]byte, error) {
	if err := s.cfg.Ready(); err != nil {
		return nil, types.NewError(types.ErrTryAgainLater, "Weftnet is not ready on node "+s.cfg.NodeName+": "+err.Error(), "")
	}
	if s.cfg.Pods.IsHome(r.netns) && r.NetnsOverride == "" {
		return nil, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the node's own network namespace", r.Netns)
	}
	if err := s.drainOne(ctx, r.ContainerID, r.IfName); err != nil {
		return nil, err
	}
	unlock := s.book.lock(r.attachment.HostLink)
	defer unlock()
	a, ticket, known, err := s.book.begin(r.attachment)
	if err != nil {
		return nil, fmt.Errorf("add pod %s on node %s: %w", r.attachment.Pod, s.cfg.NodeName, err)
	}
	wanted := spec(a, r.netns)
	if known && s.cfg.Pods.Check(wanted) == nil { // the runtime repeats itself
		err = errors.Join(s.enforce(ctx, a), ticket.Durable())
	} else {
		err = s.wire(ctx, a, wanted, ticket)
	}
	if err != nil {
		return nil, errors.Join(err, s.undo(ctx, a.HostLink))
	}
	s.book.settle(a.HostLink)
	s.notify()
	s.step("add: before the answer")
	return result(r, a, a.MTU)
}

// spec has the MTU of the time of the ADD: a Pod that runs keeps it when the uplink's changes.
func spec(a state.Attachment, netns int) pod.Spec {
	return pod.Spec{
		HostLink: a.HostLink, IfName: a.IfName, Netns: netns, Addresses: a.Addresses, MTU: a.MTU, Bandwidth: a.Bandwidth,
		FromLoopback: len(a.HostPorts) > 0,
	}
}

// wire has the kernel do its part while the log goes to disk. The kernel's part begins when the entry
// has been written, so that it outlives this process: after a crash the log knows of every link.
func (s *Server) wire(ctx context.Context, a state.Attachment, spec pod.Spec, ticket *attachlog.Ticket) error {
	s.step("add: before the log")
	if err := ticket.Written(); err != nil {
		return err
	}
	// The rules come first: they know the interface by its name, and no packet shall get through it
	// before they hold.
	s.step("add: before the rules")
	if err := s.enforce(ctx, a); err != nil {
		return err
	}
	s.step("add: before the kernel")
	if _, err := s.cfg.Pods.Attach(spec); err != nil {
		return err
	}
	s.step("add: before the disk")
	return ticket.Durable()
}

// undo takes away what an ADD has done that failed. The attachment's lock is held.
func (s *Server) undo(ctx context.Context, hostLink string) error {
	if err := s.remove(ctx, hostLink); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// del succeeds when nothing is left, whether or not there was something.
func (s *Server) del(ctx context.Context, hostLink string) error {
	unlock := s.book.lock(hostLink)
	defer unlock()
	if err := s.remove(ctx, hostLink); err != nil {
		return err
	}
	s.step("del: before the answer")
	return nil
}

func (s *Server) remove(ctx context.Context, hostLink string) error {
	a, known := s.book.leave(hostLink)
	if known {
		if err := s.withdraw(ctx, a); err != nil {
			s.book.stay(hostLink)
			return err
		}
	}
	s.step("del: before the kernel")
	if err := s.cfg.Pods.Detach(hostLink); err != nil {
		if known {
			s.book.stay(hostLink)
		}
		return err
	}
	if !known {
		return nil
	}
	s.step("del: before the log")
	if err := s.book.end(hostLink); err != nil {
		return err
	}
	s.notify()
	return nil
}

// check compares the attachment with the kernel and with what the runtime was told.
func (s *Server) check(r request) error {
	unlock := s.book.lock(r.attachment.HostLink)
	defer unlock()
	told, fail := previous(r)
	if fail != nil {
		return fail
	}
	a, _, known := s.book.get(r.attachment.HostLink)
	if !known {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("no attachment of container %s and interface %s", r.ContainerID, r.IfName), "")
	}
	var wrong []error
	for _, ip := range a.Addresses {
		if !slices.Contains(told, ip) {
			wrong = append(wrong, fmt.Errorf("prevResult lacks address %s", ip))
		}
	}
	if !slices.Equal(a.HostPorts, r.attachment.HostPorts) {
		wrong = append(wrong, fmt.Errorf("the configuration has host ports %v, the attachment %v", r.attachment.HostPorts, a.HostPorts))
	}
	wanted := spec(a, r.netns)
	wanted.IfName = r.IfName // not known of an attachment that was rebuilt from the kernel
	return errors.Join(append(wrong, s.cfg.Pods.Check(wanted))...)
}

// collect ends the attachments that the runtime no longer knows. A configuration without the list is
// refused: it would end them all.
func (s *Server) collect(ctx context.Context, r request) error {
	if r.conf.ValidAttachments == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, `GC needs "cni.dev/valid-attachments" in the configuration`, "")
	}
	valid := map[string]bool{}
	for _, v := range *r.conf.ValidAttachments {
		valid[state.PodLinkName(v.ContainerID, v.IfName)] = true
	}
	var errs []error
	for _, hostLink := range s.book.settled(r.conf.Name) {
		if valid[hostLink] {
			continue
		}
		s.cfg.Logger.Info("the runtime does not know the attachment", "link", hostLink)
		if err := s.del(ctx, hostLink); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
