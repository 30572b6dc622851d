//go:build linux && netns

package sweep_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/sweep"
	"github.com/weftnet/weftnet/test/nstest"
)

// house is a namespace with Weftnet's leftovers beside things of others that look much alike.
func house(t *testing.T) {
	t.Helper()
	add := func(what string, err error) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"weft0", "weftp1234", "other0", "xweft0"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		add("add "+name, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + name}))
		l, err := netlink.LinkByName(name)
		add("find "+name, err)
		add("set up "+name, netlink.LinkSetUp(l))
	}
	other, err := netlink.LinkByName("other0")
	add("find other0", err)
	for _, prefix := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
		dst := ipnet(prefix)
		add("unreachable "+prefix, netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE, Protocol: 87, Priority: 9999}))
		add("ours on another's link", netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: other.Attrs().Index, Protocol: 87, Table: 87}))
		add("another's", netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: other.Attrs().Index, Protocol: 4, Priority: 5}))
		for _, priority := range []int{8699, 8700, 8799, 8800} {
			rule := netlink.NewRule()
			rule.Priority, rule.Table, rule.Src = priority, 87, dst
			rule.Family = unix.AF_INET
			if strings.Contains(prefix, ":") {
				rule.Family = unix.AF_INET6
			}
			add("add rule", netlink.RuleAdd(rule))
		}
	}
	c, err := nftables.New()
	add("open nftables", err)
	for _, name := range []string{"weftnet", "weftnet-service", "weftnet-policy", "weftnet2", "weftnet-mine"} {
		t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
		c.AddChain(&nftables.Chain{Table: t, Name: "c", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	}
	c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "weftnet"})
	add("add tables", c.Flush())
}

func ipnet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

var ours = []string{
	"rule 8700: from 10.244.0.0/16 to all lookup 87", "rule 8799: from 10.244.0.0/16 to all lookup 87",
	"rule 8700: from fd00:10:244::/48 to all lookup 87", "rule 8799: from fd00:10:244::/48 to all lookup 87",
	"route 10.244.0.0/16 table 254 proto 87", "route 10.244.0.0/16 table 87 proto 87",
	"route fd00:10:244::/48 table 254 proto 87", "route fd00:10:244::/48 table 87 proto 87",
	"link weft0", "link weftp1234", "table inet weftnet", "table inet weftnet-service", "table inet weftnet-policy",
}

func TestSweepTakesWhatIsOursAndNothingElse(t *testing.T) {
	ns := nstest.New(t)
	ns.Do(t, func() {
		before := others(t)
		if len(before) != 0 {
			t.Errorf("a new namespace has %v", before)
		}
		house(t)
		theirs := others(t)
		s, err := sweep.New()
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		found, err := s.Find(context.Background())
		if err != nil {
			t.Error(err)
		}
		got, want := slices.Sorted(slices.Values(found.Lines())), slices.Sorted(slices.Values(ours))
		if !slices.Equal(got, want) {
			t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if err := s.Remove(context.Background(), found); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := s.Remove(context.Background(), found); err != nil {
			t.Errorf("remove what is gone already: %v", err)
		}
		if left, err := s.Find(context.Background()); err != nil || !left.Empty() {
			t.Errorf("after removing: %v, %v", left.Lines(), err)
		}
		if after := others(t); !slices.Equal(after, theirs) {
			t.Errorf("things of others before\n%v\nafter\n%v", theirs, after)
		}
	})
}

// others lists what must survive: everything in the namespace that does not carry our marks, but
// for the far ends of the links that go.
func others(t *testing.T) []string {
	t.Helper()
	var lines []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Errorf("list links: %v", err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; strings.HasSuffix(name, "other0") || strings.Contains(name, "xweft0") {
			lines = append(lines, "link "+name)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			t.Errorf("list rules: %v", err)
		}
		for _, r := range rules {
			if r.Priority == 8699 || r.Priority == 8800 {
				lines = append(lines, r.String())
			}
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: 4}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			t.Errorf("list routes: %v", err)
		}
		for _, r := range routes {
			lines = append(lines, r.String())
		}
	}
	c, err := nftables.New()
	if err != nil {
		t.Errorf("open nftables: %v", err)
		return lines
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Errorf("list tables: %v", err)
	}
	for _, table := range tables {
		if !slices.Contains([]string{"weftnet", "weftnet-service", "weftnet-policy"}, table.Name) || table.Family != nftables.TableFamilyINet {
			lines = append(lines, table.Name)
		}
	}
	return lines
}
