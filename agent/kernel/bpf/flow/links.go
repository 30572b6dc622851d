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

// The filters are ours by their names. The qdisc that they are in stays, with the link with which it was made.
const (
	filterName     = "weftnet-flow"
	echoFilterName = "weftnet-echo"
	filterHandle   = 1
	filterPriority = 87
)

// hook is one of the two places of programs at a host end.
type hook int

const (
	entry hook = iota // where packets of the Pod come in
	exit              // where packets to the Pod leave, after all rules
)

var hooks = []hook{entry, exit}

func (h hook) filter() string { return [...]string{entry: filterName, exit: echoFilterName}[h] }

func (h hook) program() string { return [...]string{entry: programName, exit: echoProgramName}[h] }

// parent names the place. That of the entry means the same in both kinds of qdisc.
func (h hook) parent() uint32 {
	return [...]uint32{entry: netlink.HANDLE_MIN_INGRESS, exit: netlink.HANDLE_MIN_EGRESS}[h]
}

// programs are the numbers of a program at each hook, 0 where there is none.
type programs [2]int

// seen is the host end of a Pod's link.
type seen struct {
	state.FlowLink
	programs programs // in our filters
	// exit says that there is a place at the exit, too.
	exit bool
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
		case "ingress", "clsact":
			s.Place, s.exit = true, q.Type() == "clsact" // of a link that an earlier agent made there is one place
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

// look finds out who is in the places.
func (s *seen) look(nl *netlink.Handle) error {
	err := s.lookAt(nl, entry)
	if s.exit {
		err = errors.Join(err, s.lookAt(nl, exit))
	}
	return err
}

func (s *seen) lookAt(nl *netlink.Handle, h hook) error {
	filters, err := retry(func() ([]netlink.Filter, error) { return nl.FilterList(s.device(), h.parent()) })
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		s.Queued = true // it has just gone
		return nil
	}
	if err != nil {
		return fmt.Errorf("list filters of %s: %w", s.Name, err)
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if !ok || b.Name != h.filter() {
			s.Queued = true
			continue
		}
		s.programs[h] = b.Id
	}
	return nil
}

func (s seen) device() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: s.Name, Index: s.Index}}
}

// attach puts the program into its place, in one step where there is one already.
func (s seen) attach(nl *netlink.Handle, h hook, o *objects) error {
	f := &netlink.BpfFilter{FilterAttrs: s.filterAttrs(h), Fd: o.Programs[h.program()].FD(), Name: h.filter(), DirectAction: true}
	if err := nl.FilterReplace(f); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("attach to %s: %w", s.Name, err)
	}
	return nil
}

// detach takes the program away.
func (s seen) detach(nl *netlink.Handle, h hook) error {
	f := &netlink.BpfFilter{FilterAttrs: s.filterAttrs(h), Name: h.filter()}
	if err := nl.FilterDel(f); err != nil && !gone(err) {
		return fmt.Errorf("detach from %s: %w", s.Name, err)
	}
	return nil
}

func (s seen) filterAttrs(h hook) netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: s.Index, Parent: h.parent(), Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL}
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
