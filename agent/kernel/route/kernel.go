//go:build linux

package route

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Table is what keeps our routes and rules: the Kernel, or its Fake.
type Table interface {
	// Observe lists what is ours.
	Observe(ctx context.Context) (Observed, error)
	// Apply carries out a change. What fails for one route does not keep it from the others.
	Apply(ctx context.Context, c Change) error
}

// Kernel keeps the routes and rules of one network namespace.
type Kernel struct {
	conn   *wire.Conn
	events *wire.Events
}

var _ Table = (*Kernel)(nil)

// New opens the routing tables of the network namespace of the calling thread.
func New() (*Kernel, error) {
	conn, err := wire.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	events, err := wire.NewEvents(unix.NETLINK_ROUTE,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Kernel{conn: conn, events: events}, nil
}

// Close ends the sockets. Routes and rules stand.
func (k *Kernel) Close() error { return errors.Join(k.events.Close(), k.conn.Close()) }

// Observe lists what is ours, of both families, sorted. Links are listed after the routes: a link that
// came meanwhile with its route is then known, and a route whose link is not known has gone with it.
func (k *Kernel) Observe(ctx context.Context) (Observed, error) {
	var o Observed
	if err := ctx.Err(); err != nil {
		return o, err
	}
	var listed [][]byte
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		routes, err := k.listRoutes(family)
		if err != nil {
			return o, err
		}
		listed = append(listed, routes...)
		if err := k.observeRules(&o, family); err != nil {
			return o, err
		}
	}
	links, err := k.linkNames()
	if err != nil {
		return o, err
	}
	for _, b := range listed {
		if r, ok := decodeRoute(b, links); ok {
			o.Routes = append(o.Routes, r)
		}
	}
	o.Routes, o.Rules = state.SortRoutes(o.Routes), state.SortRules(o.Rules)
	return o, nil
}

// listRoutes lists one family's routes of our protocol as the kernel's messages.
func (k *Kernel) listRoutes(family byte) ([][]byte, error) {
	request := make([]byte, headerLen)
	request[offsetFamily], request[offsetProtocol] = family, state.RouteProtocol
	replies, err := k.conn.List(unix.RTM_GETROUTE, request)
	if err != nil && !noFamily(err) {
		return nil, fmt.Errorf("list routes of protocol %d: %w", state.RouteProtocol, err)
	}
	return slices.DeleteFunc(replies, func(b []byte) bool { return len(b) < headerLen || b[offsetFamily] != family }), nil
}

func (k *Kernel) observeRules(o *Observed, family byte) error {
	request := make([]byte, headerLen)
	request[offsetFamily] = family
	replies, err := k.conn.List(unix.RTM_GETRULE, request)
	if err != nil && !noFamily(err) {
		return fmt.Errorf("list policy rules: %w", err)
	}
	for _, b := range replies {
		r, ours, plain := decodeRule(b)
		switch {
		case !ours || b[offsetFamily] != family:
		case plain:
			o.Rules = append(o.Rules, r)
		default:
			o.Strays = append(o.Strays, Stray{Priority: r.Priority, message: string(b)})
		}
	}
	return nil
}

// noFamily tells the error of a kernel without IPv6.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

const skipStats = 8 // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h

// linkNames lists the names of all links by index.
func (k *Kernel) linkNames() (map[uint32]string, error) {
	request := wire.Put(make([]byte, unix.SizeofIfInfomsg), wire.Host32(unix.IFLA_EXT_MASK, skipStats))
	replies, err := k.conn.List(unix.RTM_GETLINK, request)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make(map[uint32]string, len(replies))
	for _, b := range replies {
		if len(b) >= unix.SizeofIfInfomsg {
			names[wire.HostUint32(b[4:])] = wire.String(wire.Find(wire.Parse(b[unix.SizeofIfInfomsg:]), unix.IFLA_IFNAME))
		}
	}
	return names, nil
}

// linkIndex finds one link by name.
func (k *Kernel) linkIndex(name string) (uint32, error) {
	replies, err := k.conn.Do(unix.RTM_GETLINK, 0, wire.Put(make([]byte, unix.SizeofIfInfomsg), wire.Str(unix.IFLA_IFNAME, name)))
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	for _, b := range replies {
		if len(b) >= unix.SizeofIfInfomsg {
			return wire.HostUint32(b[4:]), nil
		}
	}
	return 0, fmt.Errorf("find link %s: %w", name, unix.ENODEV)
}

// Apply carries out a change. What fails for one route or rule does not keep it from the others.
func (k *Kernel) Apply(ctx context.Context, c Change) error {
	tx := &work{kernel: k, links: map[string]uint32{}}
	steps := []func() error{}
	for _, r := range c.Add {
		steps = append(steps, func() error { return tx.route("add", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r) })
	}
	for _, r := range c.Replace {
		steps = append(steps, func() error { return tx.route("replace", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r) })
	}
	for _, r := range c.AddRules {
		steps = append(steps, func() error { return tx.addRule(r) })
	}
	for _, r := range c.DeleteRules {
		steps = append(steps, func() error { return tx.deleteRule(r.String(), encodeRule(r)) })
	}
	for _, s := range c.DeleteStrays {
		steps = append(steps, func() error { return tx.deleteRule(fmt.Sprintf("of priority %d", s.Priority), []byte(s.message)) })
	}
	for _, r := range c.Delete {
		steps = append(steps, func() error { return tx.deleteRoute(r) })
	}
	var faults []error
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(faults, err)...)
		}
		faults = append(faults, step())
	}
	return errors.Join(faults...)
}

// work is one Apply under way; it looks each link up once.
type work struct {
	kernel *Kernel
	links  map[string]uint32
}

func (w *work) link(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	if index, ok := w.links[name]; ok {
		return index, nil
	}
	index, err := w.kernel.linkIndex(name)
	if err == nil {
		w.links[name] = index
	}
	return index, err
}

func (w *work) route(verb string, typ, flags uint16, r state.Route) error {
	index, err := w.link(r.Normalized().Dev)
	if err == nil {
		_, err = w.kernel.conn.Do(typ, flags, encodeRoute(r, index))
	}
	if err != nil {
		return fmt.Errorf("%s route %s: %w", verb, r, err)
	}
	return nil
}

// deleteRoute is content when the route is gone, also together with its link.
func (w *work) deleteRoute(r state.Route) error {
	err := w.route("delete", unix.RTM_DELROUTE, 0, r)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// addRule is content when the rule is there.
func (w *work) addRule(r state.Rule) error {
	_, err := w.kernel.conn.Do(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, encodeRule(r))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %s: %w", r, err)
	}
	return nil
}

func (w *work) deleteRule(name string, message []byte) error {
	_, err := w.kernel.conn.Do(unix.RTM_DELRULE, 0, message)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete rule %s: %w", name, err)
	}
	return nil
}

// Ensure observes what is ours and makes it as wanted. It returns what it changed. Routes whose
// place a stranger's route has are in the change's Conflicts, and the error is ErrConflict.
func (k *Kernel) Ensure(ctx context.Context, want Wanted) (Change, error) {
	return ensure(ctx, k, want)
}

// Cleanup deletes all that is ours.
func (k *Kernel) Cleanup(ctx context.Context) error {
	_, err := k.Ensure(ctx, Wanted{})
	return err
}

// ensure observes, compares and applies. What turns out to exist already is looked at once more:
// either it has become ours meanwhile, or it is a stranger's.
func ensure(ctx context.Context, t Table, want Wanted) (Change, error) {
	if err := want.Validate(); err != nil {
		return Change{}, err
	}
	have, err := t.Observe(ctx)
	if err != nil {
		return Change{}, err
	}
	c := Diff(have, want)
	err = t.Apply(ctx, c)
	if !errors.Is(err, unix.EEXIST) {
		return c, err
	}
	if have, err = t.Observe(ctx); err != nil {
		return c, err
	}
	again := Diff(have, want)
	var faults []error
	for _, r := range again.Add {
		err := t.Apply(ctx, Change{Add: []state.Route{r}})
		if errors.Is(err, unix.EEXIST) {
			c.Conflicts = append(c.Conflicts, r)
			err = fmt.Errorf("add route %s: %w", r, ErrConflict)
		}
		faults = append(faults, err)
	}
	again.Add = nil
	faults = append(faults, t.Apply(ctx, again))
	return withoutConflicts(c), errors.Join(faults...)
}

// withoutConflicts takes what could not be done out of what was done.
func withoutConflicts(c Change) Change {
	var added []state.Route
	for _, r := range c.Add {
		conflict := false
		for _, x := range c.Conflicts {
			conflict = conflict || x.Equal(r)
		}
		if !conflict {
			added = append(added, r)
		}
	}
	c.Add = added
	return c
}

// Subscribe tells on the channel when another program, or the kernel itself, has changed a route or
// rule of ours, or when events were lost; several at once are told as one. The kernel says nothing of
// the IPv4 routes that go with a link or an address: watch those, too. It ends, and closes the
// channel, with ctx. Only one subscription may run at a time.
func (k *Kernel) Subscribe(ctx context.Context) (<-chan struct{}, error) {
	out, err := k.events.Subscribe(ctx, k.concerns, nil)
	if err != nil {
		return nil, fmt.Errorf("subscribe to routes and rules: %w", err)
	}
	return out, nil
}

func (k *Kernel) concerns(m wire.Message) bool {
	if m.Port == k.conn.Port() || len(m.Data) < headerLen {
		return false
	}
	switch m.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return m.Data[offsetProtocol] == state.RouteProtocol
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		_, ours, _ := decodeRule(m.Data)
		return ours
	default:
		return false
	}
}
