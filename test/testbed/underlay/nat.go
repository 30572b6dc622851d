package underlay

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

const (
	routerIn  = "in"
	routerOut = "out"
)

// NAT is what a router does.
type NAT struct {
	// Symmetric gives a random port for each destination, and not the same for all where it can.
	Symmetric bool
	// UDPTimeout is after how long an idle UDP flow is forgotten; 0 leaves the kernel's default. With it
	// the router is as forgetful as RFC 4787 (REQ-6) lets it be: WireGuard's keepalives
	// from outside do not keep a flow open.
	UDPTimeout time.Duration
}

// EnsureRouter puts a NAT router between the node and the bridge. The node
// keeps its address, and nobody outside can send to it except replies and the
// kubelet's port, which the API server needs for logs and exec. What the node
// sends carries the router's address; with a symmetric NAT, also a random
// port per destination.
func EnsureRouter(node layout.Node, family layout.Family, nat NAT) error {
	if err := ensureNetNS(node.Router()); err != nil {
		return err
	}
	if err := moveBehind(node); err != nil {
		return err
	}
	if err := ensurePort(node.Port(), node.Router(), routerOut, mac(1, node)); err != nil {
		return err
	}
	err := proc.InNetNS(node.Router(), func() error {
		if err := setSysctls(routerSysctls()); err != nil {
			return err
		}
		if err := configure(routerOut, node.RouterAddrs(family)); err != nil {
			return err
		}
		if err := configure(routerIn, nil); err != nil {
			return err
		}
		if err := routerPaths(node, family); err != nil {
			return err
		}
		if err := LoadRuleset(routerRules(nat)); err != nil {
			return err
		}
		return setSysctls(nat.sysctls()) // conntrack's are there once a rule asks for it
	})
	if err != nil {
		return fmt.Errorf("set up the router of %s: %w", node, err)
	}
	return nil
}

// RemoveRouter connects the node to the bridge again.
func RemoveRouter(node layout.Node, family layout.Family) error {
	handle, err := netns.GetFromName(node.Router())
	if err != nil {
		return nil //nolint:nilerr // there is no router
	}
	_ = handle.Close()
	if err := deleteLink(node.Port()); err != nil {
		return err
	}
	// Of this thread: the main thread, which /proc/self is about, may be one that was lost in a new namespace (ensureNetNS).
	root, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open this network namespace: %w", err)
	}
	defer root.Close()
	err = proc.InNetNS(node.Router(), func() error {
		link, err := netlink.LinkByName(routerIn)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find the router's inner link: %w", err)
		}
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("set the router's inner link down: %w", err)
		}
		if err := netlink.LinkSetName(link, node.Port()); err != nil {
			return fmt.Errorf("rename the router's inner link: %w", err)
		}
		return netlink.LinkSetNsFd(link, int(root))
	})
	if err != nil {
		return err
	}
	if err := deleteNetNS(node.Router()); err != nil {
		return err
	}
	return EnsureNode(node, family, node.Addrs(family), nil)
}

// moveBehind moves the far end of the node's eth0 from the bridge into the
// router, unless it is there.
func moveBehind(node layout.Node) error {
	handle, err := netns.GetFromName(node.Router())
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", node.Router(), err)
	}
	defer handle.Close()
	there := false
	err = proc.InNetNS(node.Router(), func() error {
		_, err := netlink.LinkByName(routerIn)
		there = err == nil
		if isNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil || there {
		return err
	}
	link, err := netlink.LinkByName(node.Port())
	if err != nil {
		return fmt.Errorf("find port %s: %w", node.Port(), err)
	}
	if err := netlink.LinkSetNsFd(link, int(handle)); err != nil {
		return fmt.Errorf("move %s into the router: %w", node.Port(), err)
	}
	return proc.InNetNS(node.Router(), func() error {
		link, err := netlink.LinkByName(node.Port())
		if err != nil {
			return fmt.Errorf("find the moved link: %w", err)
		}
		if err := netlink.LinkSetName(link, routerIn); err != nil {
			return fmt.Errorf("rename the moved link: %w", err)
		}
		// On the bridge it had to be silent; here it is a router's.
		return setSysctl("net.ipv6.conf."+routerIn+".disable_ipv6", "0")
	})
}

// routerSysctls make the router answer, on each side, for what lies on the
// other: the node and the rest keep their one common subnet.
func routerSysctls() map[string]string {
	values := map[string]string{
		"net.ipv4.ip_forward":          "1",
		"net.ipv6.conf.all.forwarding": "1",
	}
	for _, link := range []string{routerIn, routerOut} {
		values["net.ipv4.conf."+link+".proxy_arp"] = "1"
		values["net.ipv6.conf."+link+".proxy_ndp"] = "1"
		values["net.ipv4.neigh."+link+".proxy_delay"] = "0"
		values["net.ipv6.neigh."+link+".proxy_delay"] = "0"
	}
	return values
}

func (n NAT) sysctls() map[string]string {
	if n.UDPTimeout == 0 {
		return nil
	}
	seconds := strconv.Itoa(int(n.UDPTimeout.Seconds()))
	return map[string]string{
		"net.netfilter.nf_conntrack_udp_timeout":        seconds,
		"net.netfilter.nf_conntrack_udp_timeout_stream": seconds,
	}
}

// routerPaths sets the way to the node, and the IPv6 neighbours to answer for
// (IPv4 answers for whatever it has a route to on the other side).
func routerPaths(node layout.Node, family layout.Family) error {
	in, err := netlink.LinkByName(routerIn)
	if err != nil {
		return fmt.Errorf("find the router's inner link: %w", err)
	}
	out, err := netlink.LinkByName(routerOut)
	if err != nil {
		return fmt.Errorf("find the router's outer link: %w", err)
	}
	for _, p := range node.Addrs(family) {
		host := netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		route := &netlink.Route{LinkIndex: in.Attrs().Index, Dst: ipNet(host), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", node, err)
		}
		if err := answerFor(out, p.Addr()); err != nil {
			return err
		}
	}
	for _, other := range outside(node, family) {
		if err := answerFor(in, other); err != nil {
			return err
		}
	}
	return nil
}

func outside(node layout.Node, family layout.Family) []netip.Addr {
	var out []netip.Addr
	for _, p := range layout.BridgeAddrs(family) {
		out = append(out, p.Addr())
	}
	for _, other := range layout.Nodes(layout.MaxNodes) {
		if other == node {
			continue
		}
		for _, p := range append(other.Addrs(family), other.RouterAddrs(family)...) {
			out = append(out, p.Addr())
		}
	}
	return out
}

func answerFor(link netlink.Link, addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index,
		Family:    netlink.FAMILY_V6,
		Flags:     netlink.NTF_PROXY,
		IP:        addr.AsSlice(),
	})
	if err != nil {
		return fmt.Errorf("answer for %s: %w", addr, err)
	}
	return nil
}

// routerRules is the router's whole ruleset.
func routerRules(nat NAT) string {
	random, forgetful := "", ""
	if nat.Symmetric {
		random = " fully-random"
	}
	if nat.UDPTimeout != 0 {
		// Before conntrack, which takes any packet of a flow for a sign of life. A keepalive is 32 bytes.
		forgetful = `	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "` + routerOut + `" udp length 40 drop
	}
`
	}
	return fmt.Sprintf(`table inet tb-nat
delete table inet tb-nat
table inet tb-nat {
%[4]s	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname "%[1]s" oifname "%[2]s" accept
		iifname "%[2]s" oifname "%[1]s" tcp dport { 6443, 10250 } accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "%[2]s" masquerade%[3]s
	}
}
`, routerIn, routerOut, random, forgetful)
}

// LoadRuleset gives a ruleset to the kernel, in this thread's namespace; all
// of it or nothing.
func LoadRuleset(text string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load nftables rules: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// ForgetMappings makes the router in front of a node forget its flows.
func ForgetMappings(node layout.Node) error {
	return proc.InNetNS(node.Router(), func() error {
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("flush the router's flows: %w", err)
		}
		return nil
	})
}

// FlushNeighbors makes a namespace forget what it learned about an address.
func FlushNeighbors(namespace string, addrs []netip.Addr) error {
	return proc.InNetNS(namespace, func() error {
		entries, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for _, entry := range entries {
			ip, ok := netip.AddrFromSlice(entry.IP)
			if !ok || !contains(addrs, ip.Unmap()) {
				continue
			}
			if err := netlink.NeighDel(&entry); err != nil && !strings.Contains(err.Error(), "no such") {
				return fmt.Errorf("forget neighbour %s: %w", ip, err)
			}
		}
		return nil
	})
}

func contains(addrs []netip.Addr, want netip.Addr) bool {
	for _, a := range addrs {
		if a == want {
			return true
		}
	}
	return false
}

// HasRouter says whether a NAT router stands in front of the node.
func HasRouter(node layout.Node) bool {
	handle, err := netns.GetFromName(node.Router())
	if err != nil {
		return false
	}
	_ = handle.Close()
	return true
}
