//go:build linux

// Package sweep finds and removes what Weftnet has made in the kernel of a node, by its marks
// alone: links named weft*, routes of protocol 87, policy rules of priority 8700-8799, the
// nftables tables inet weftnet, weftnet-service and weftnet-policy. It knows nothing of what was wanted, so it works where the agent is
// gone, and takes nothing that is another's.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
)

// The marks of what is ours.
const (
	linkPrefix    = "weft"
	routeProtocol = 87
	ruleFirst     = 8700
	ruleLast      = 8799
)

// tableNames are those of the mesh, the service proxy and the policies.
var tableNames = []string{"weftnet", "weftnet-service", "weftnet-policy"}

// Leftovers are the objects found, in the order in which they are removed: what leads packets to a
// link goes before the link, and the table that drops what would leave in the clear goes last.
type Leftovers struct {
	rules  []netlink.Rule
	routes []netlink.Route
	links  []netlink.Link
	tables []*nftables.Table
}

// Empty says whether nothing was found.
func (l Leftovers) Empty() bool { return len(l.Lines()) == 0 }

// Lines names the objects, one a line, as ip and nft would write them.
func (l Leftovers) Lines() []string {
	var lines []string
	for _, r := range l.rules {
		lines = append(lines, fmt.Sprintf("rule %d: from %v to %v lookup %d", r.Priority, orAll(r.Src), orAll(r.Dst), r.Table))
	}
	for _, r := range l.routes {
		lines = append(lines, fmt.Sprintf("route %v table %d proto %d", orAll(r.Dst), r.Table, r.Protocol))
	}
	for _, k := range l.links {
		lines = append(lines, "link "+k.Attrs().Name)
	}
	for _, t := range l.tables {
		lines = append(lines, "table inet "+t.Name)
	}
	return lines
}

func orAll(p *net.IPNet) string {
	if p == nil {
		return "all"
	}
	return p.String()
}

// Sweeper works in the network namespace of the thread that made it.
type Sweeper struct {
	nl  *netlink.Handle
	nft *nftables.Conn
}

// New opens the sockets.
func New() (*Sweeper, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("open an nftables socket: %w", err)
	}
	return &Sweeper{nl: nl, nft: nft}, nil
}

// Close gives the sockets back.
func (s *Sweeper) Close() error {
	s.nl.Close()
	return s.nft.CloseLasting()
}

// Find lists what is ours.
func (s *Sweeper) Find(ctx context.Context) (Leftovers, error) {
	if err := ctx.Err(); err != nil {
		return Leftovers{}, err
	}
	var found Leftovers
	var faults []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := link.Dump(func() ([]netlink.Rule, error) { return s.nl.RuleList(family) })
		faults = append(faults, wrap("list rules", err))
		for _, r := range rules {
			if r.Priority >= ruleFirst && r.Priority <= ruleLast {
				r.Family = family
				found.rules = append(found.rules, r)
			}
		}
		filter := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}
		routes, err := link.Dump(func() ([]netlink.Route, error) {
			return s.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		faults = append(faults, wrap("list routes", err))
		found.routes = append(found.routes, routes...)
	}
	links, err := link.Dump(s.nl.LinkList)
	faults = append(faults, wrap("list links", err))
	for _, k := range links {
		if strings.HasPrefix(k.Attrs().Name, linkPrefix) {
			found.links = append(found.links, k)
		}
	}
	found.tables, err = s.tables()
	return found, errors.Join(append(faults, err)...)
}

func (s *Sweeper) tables() ([]*nftables.Table, error) {
	all, err := s.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.DeleteFunc(all, func(t *nftables.Table) bool { return !slices.Contains(tableNames, t.Name) }), nil
}

// Remove removes what was found. What is gone already is fine; what cannot be removed does not
// keep the rest from going.
func (s *Sweeper) Remove(ctx context.Context, found Leftovers) error {
	var faults []error
	try := func(what string, remove func() error) {
		if ctx.Err() == nil {
			faults = append(faults, wrap(what, remove()))
		}
	}
	for i := range found.rules {
		try("remove a rule", func() error { return s.nl.RuleDel(&found.rules[i]) })
	}
	for i := range found.routes {
		try("remove a route", func() error { return s.nl.RouteDel(&found.routes[i]) })
	}
	for _, k := range found.links {
		try("remove link "+k.Attrs().Name, func() error { return s.nl.LinkDel(k) })
	}
	for _, t := range found.tables {
		try("remove table inet "+t.Name, func() error {
			s.nft.DelTable(t)
			return s.nft.Flush()
		})
	}
	return errors.Join(append(faults, ctx.Err())...)
}

// wrap adds what was tried, and takes an object that is not there for removed.
func wrap(what string, err error) error {
	gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
	if notFound := (netlink.LinkNotFoundError{}); err == nil || gone || errors.As(err, &notFound) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
