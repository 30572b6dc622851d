//go:build linux

// Package kubeproxy finds and removes what kube-proxy has made in the kernel of a node: its own
// nftables tables, its chains in the tables of iptables-nft, the link of its IPVS mode. It goes by
// the names that kube-proxy gives (pkg/proxy of Kubernetes 1.37) and touches nothing else: the
// chains of the kubelet, which share the prefix, stay. Entries of connection tracking stay too, so
// that what is translated already goes on, as long as another table keeps the hooks of NAT in use.
package kubeproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The modes of kube-proxy, as its option --proxy-mode and its endpoint /proxyMode name them.
const (
	NFTables = "nftables"
	IPTables = "iptables"
	IPVS     = "ipvs"
)

const (
	ownTable = "kube-proxy"    // of the nftables mode, in the families ip and ip6
	ipvsLink = "kube-ipvs0"    // carries the addresses of all Services in the IPVS mode
	services = "KUBE-SERVICES" // is there whenever the iptables mode or the IPVS mode is
)

// chains and prefixes of the iptables and IPVS modes. KUBE-FIREWALL, KUBE-KUBELET-CANARY,
// KUBE-IPTABLES-HINT and KUBE-MARK-DROP are the kubelet's.
var (
	chains = []string{
		services, "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-FORWARD",
		"KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY",
		"KUBE-SOURCE-RANGES-FIREWALL", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
	}
	prefixes = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"}
	compat   = []string{"nat", "filter", "mangle"}
	families = []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}
)

func isChain(name string) bool {
	return slices.Contains(chains, name) || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

// Rules are what was found.
type Rules struct {
	tables []*nftables.Table
	shared []shared
	link   netlink.Link
	left   []string
}

// shared is what kube-proxy has in a table that is others' too.
type shared struct {
	table  *nftables.Table
	jumps  []*nftables.Rule // of others' chains to kube-proxy's
	chains []*nftables.Chain
}

// Empty says whether there is nothing to remove.
func (r Rules) Empty() bool { return len(r.Lines()) == 0 }

// Lines names what would be removed, one a line, as nft and ip write it.
func (r Rules) Lines() []string {
	var lines []string
	for _, t := range r.tables {
		lines = append(lines, fmt.Sprintf("table %s %s", familyName(t.Family), t.Name))
	}
	for _, s := range r.shared {
		lines = append(lines, fmt.Sprintf("%d chains KUBE-* of table %s %s, and %d jumps to them",
			len(s.chains), familyName(s.table.Family), s.table.Name, len(s.jumps)))
	}
	if r.link != nil {
		lines = append(lines, "link "+ipvsLink)
	}
	return lines
}

// Left says what is there and cannot be removed over netlink, and what removes it.
func (r Rules) Left() []string { return r.left }

// Finder works in the network namespace of the thread that made it.
type Finder struct {
	nl  *netlink.Handle
	nft *nftables.Conn
}

// New opens the sockets.
func New() (*Finder, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("open an nftables socket: %w", err)
	}
	return &Finder{nl: nl, nft: nft}, nil
}

// Close gives the sockets back.
func (f *Finder) Close() error {
	f.nl.Close()
	return f.nft.CloseLasting()
}

// HasTable says whether the node has an nftables table inet of that name.
func (f *Finder) HasTable(name string) (bool, error) {
	tables, err := f.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// Modes are the modes of kube-proxy that have left a trace, at the cost of listing tables and
// asking for two chains and a link: no rule is read.
func (f *Finder) Modes() ([]string, error) {
	var modes []string
	var faults []error
	for _, family := range families {
		tables, err := f.nft.ListTablesOfFamily(family)
		faults = append(faults, wrap("list nftables tables", err))
		for _, t := range tables {
			switch t.Name {
			case ownTable:
				modes = append(modes, NFTables)
			case "nat":
				_, err := f.nft.ListChain(t, services)
				faults = append(faults, wrap("look for chain "+services, err))
				if err == nil {
					modes = append(modes, IPTables)
				}
			}
		}
	}
	_, err := f.nl.LinkByName(ipvsLink)
	faults = append(faults, wrap("look for link "+ipvsLink, err))
	if err == nil {
		// Its few iptables chains are of the IPVS mode, then.
		modes = append(slices.DeleteFunc(modes, func(m string) bool { return m == IPTables }), IPVS)
	}
	slices.Sort(modes)
	return slices.Compact(modes), errors.Join(faults...)
}

// Find lists what is kube-proxy's.
func (f *Finder) Find(ctx context.Context) (Rules, error) {
	var found Rules
	var faults []error
	for _, family := range families {
		tables, err := f.nft.ListTablesOfFamily(family)
		faults = append(faults, wrap("list nftables tables", err))
		for _, t := range tables {
			if err := ctx.Err(); err != nil {
				return found, err
			}
			if t.Name == ownTable {
				found.tables = append(found.tables, t)
			} else if slices.Contains(compat, t.Name) {
				s, err := f.sharedIn(t)
				faults = append(faults, err)
				if len(s.chains) > 0 {
					found.shared = append(found.shared, s)
				}
			}
		}
	}
	link, err := f.nl.LinkByName(ipvsLink)
	faults = append(faults, wrap("look for link "+ipvsLink, err))
	if err == nil {
		found.link = link
	}
	found.left = leftovers(found.link != nil)
	return found, errors.Join(faults...)
}

// sharedIn finds kube-proxy's chains in a table, and the rules of other chains that lead to them.
func (f *Finder) sharedIn(t *nftables.Table) (shared, error) {
	s := shared{table: t}
	all, err := f.nft.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return s, fmt.Errorf("list the chains of table %s %s: %w", familyName(t.Family), t.Name, err)
	}
	all = slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != t.Name })
	for _, c := range all {
		if isChain(c.Name) {
			s.chains = append(s.chains, c)
		}
	}
	if len(s.chains) == 0 {
		return s, nil
	}
	for _, c := range all {
		if isChain(c.Name) {
			continue
		}
		rules, err := f.nft.GetRules(t, c)
		if err != nil {
			return s, fmt.Errorf("list the rules of chain %s %s %s: %w", familyName(t.Family), t.Name, c.Name, err)
		}
		s.jumps = append(s.jumps, slices.DeleteFunc(rules, func(r *nftables.Rule) bool { return !leadsToUs(r) })...)
	}
	return s, nil
}

func leadsToUs(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		v, is := e.(*expr.Verdict)
		return is && isChain(v.Chain)
	})
}

// leftovers looks for what only another interface of the kernel could remove.
func leftovers(ipvs bool) []string {
	var left []string
	for file, tool := range map[string]string{"ip_tables_names": "iptables-legacy", "ip6_tables_names": "ip6tables-legacy"} {
		names, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err == nil && slices.Contains(strings.Fields(string(names)), "nat") {
			left = append(left, fmt.Sprintf("legacy iptables tables are in use, which netlink does not reach: if `%s-save` shows KUBE-SERVICES, run `kube-proxy --cleanup` on this node, or reboot it", tool))
		}
	}
	if servers, err := os.ReadFile("/proc/thread-self/net/ip_vs"); err == nil && strings.Count(strings.TrimSpace(string(servers)), "\n") > 2 {
		left = append(left, "IPVS has virtual servers: `ipvsadm --clear` removes them, others' too")
	}
	if ipvs {
		left = append(left, "ip sets KUBE-* may be left; they lead no traffic: `ipset list -n` names them")
	}
	slices.Sort(left)
	return left
}

// wrap adds what was tried, and takes what is not there for no fault.
func wrap(what string, err error) error {
	notFound := netlink.LinkNotFoundError{}
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.As(err, &notFound) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
