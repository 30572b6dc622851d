//go:build linux

package flow

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// The filter is ours by its name. The ingress qdisc that it is in stays, with the link with which it was made.
const (
	filterName     = "weftnet-flow"
	filterHandle   = 1
	filterPriority = 87
)

// seen is the host end of a Pod's link.
type seen struct {
	state.FlowLink
	program int // the number of the program in our filter
}

// observe lists the host ends of Pods by their number.
func observe(nl *netlink.Handle) (map[int]seen, error) {
	links, err := retry(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	qdiscs, err := retry(func() ([]netlink.Qdisc, error) { return nl.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	all := map[int]seen{}
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "veth" && strings.HasPrefix(a.Name, state.PodLinkPrefix) {
			all[a.Index] = seen{FlowLink: state.FlowLink{Name: a.Name, Index: a.Index, MTU: a.MTU}}
		}
	}
	for _, q := range qdiscs {
		s, ok := all[q.Attrs().LinkIndex]
		if !ok {
			continue
		}
		switch q.Type() {
		case "noqueue":
		case "ingress":
			if err := s.look(nl); err != nil {
				return nil, err
			}
		default:
			s.Queued = true
		}
		all[s.Index] = s
	}
	return all, nil
}

// look finds out who is in the ingress qdisc.
func (s *seen) look(nl *netlink.Handle) error {
	filters, err := retry(func() ([]netlink.Filter, error) { return nl.FilterList(s.device(), ingressHandle) })
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		s.Queued = true // it has just gone
		return nil
	}
	if err != nil {
		return fmt.Errorf("list filters of %s: %w", s.Name, err)
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if !ok || b.Name != filterName {
			s.Queued = true
			continue
		}
		s.program = b.Id
	}
	s.Place = true
	return nil
}

var ingressHandle = netlink.MakeHandle(0xffff, 0)

func (s seen) device() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: s.Name, Index: s.Index}}
}

// attach puts the program into its place, in one step where there is one already.
func (s seen) attach(nl *netlink.Handle, o *objects) error {
	f := &netlink.BpfFilter{FilterAttrs: s.filterAttrs(), Fd: o.Programs[programName].FD(), Name: filterName, DirectAction: true}
	if err := nl.FilterReplace(f); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("attach to %s: %w", s.Name, err)
	}
	return nil
}

// detach takes the program away.
func (s seen) detach(nl *netlink.Handle) error {
	f := &netlink.BpfFilter{FilterAttrs: s.filterAttrs(), Name: filterName}
	if err := nl.FilterDel(f); err != nil && !gone(err) {
		return fmt.Errorf("detach from %s: %w", s.Name, err)
	}
	return nil
}

func (s seen) filterAttrs() netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: s.Index, Parent: ingressHandle, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL}
}

// gone says that what was to be taken away, or what it was on, is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}

// retry repeats a list that changed while it was read.
func retry[T any](list func() (T, error)) (out T, err error) {
	const tries = 10
	for range tries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
