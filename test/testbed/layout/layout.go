// Package layout is the testbed's address plan and file plan: pure functions
// from a node's number to its names and addresses, and from the repository's
// root to the places where state is kept. Other programs rely on these names.
package layout

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The fixed names on the machine, and the fixed addresses of the cluster.
const (
	Bridge     = "tb-br0"
	NodePrefix = "tb-node"
	// ControlGroup is the cgroup of the control plane.
	ControlGroup = "tb-control"
	// MachineWeight is by how much more of the processors a node, and the control plane, gets than any other session of programs when
	// all want more than there is: each stands for a machine. A node has its Pods' network in one thread here, which otherwise
	// has to share its processor as one of many.
	MachineWeight = 2
	// Balancer is the network namespace of the load balancer, BalancerPort its port on the bridge.
	Balancer     = "tb-lb"
	BalancerPort = "tb-plb"
	// BalancerProgram is the name of what runs in it.
	BalancerProgram = "balancer"
	APIPort         = 6443
	// MaxNodes keeps node, router and bridge addresses apart in one /24, and those of nodes that moved.
	MaxNodes   = 70
	Domain     = "cluster.local"
	modulePath = "module github.com/weftnet/weftnet"
)

// Layout knows where the testbed keeps its files.
type Layout struct {
	// Root is the repository's root, absolute.
	Root string
}

// Find walks up from the working directory to the repository's root.
func Find() (Layout, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Layout{}, fmt.Errorf("find the working directory: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), modulePath+"\n") {
			return Layout{Root: dir}, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return Layout{}, errors.New("find the repository: no go.mod of weftnet in this folder or above it")
		}
		dir = parent
	}
}

// Dir is the folder of all state.
func (l Layout) Dir() string { return filepath.Join(l.Root, ".testbed") }

// Path joins names below Dir.
func (l Layout) Path(names ...string) string {
	return filepath.Join(append([]string{l.Dir()}, names...)...)
}

// BinDir holds the built programs.
func (l Layout) BinDir() string { return l.Path("bin") }

// Kubeconfig is the administrator's way into the cluster.
func (l Layout) Kubeconfig() string { return l.Path("kubeconfig") }

// Log is the log file of a process.
func (l Layout) Log(name string) string { return l.Path("log", name+".log") }

// Cache survives `down`.
func (l Layout) Cache(names ...string) string {
	return l.Path(append([]string{"cache"}, names...)...)
}

// NodeDir is a node's disk: it survives a reboot of the node.
func (l Layout) NodeDir(node string, names ...string) string {
	return l.Path(append([]string{"nodes", node}, names...)...)
}

// Family says which address families the cluster has.
type Family string

// The three families. In Dual, IPv4 comes first.
const (
	Dual Family = "dual"
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// ParseFamily refuses everything but the three families.
func ParseFamily(text string) (Family, error) {
	f := Family(text)
	if !slices.Contains([]Family{Dual, IPv4, IPv6}, f) {
		return "", fmt.Errorf("ip family %q: want dual, ipv4 or ipv6", text)
	}
	return f, nil
}

// pick keeps the values of the family, IPv4 first.
func pick[T any](f Family, v4, v6 T) []T {
	switch f {
	case IPv4:
		return []T{v4}
	case IPv6:
		return []T{v6}
	default:
		return []T{v4, v6}
	}
}

// PodCIDRs are the ranges that all Pods and mesh addresses come from.
func PodCIDRs(f Family) []netip.Prefix {
	return pick(f, netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48"))
}

// ServiceCIDRs are the ranges of Service addresses.
func ServiceCIDRs(f Family) []netip.Prefix {
	return pick(f, netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112"))
}

// DNS lists the cluster DNS Service's addresses.
func DNS(f Family) []netip.Addr {
	return pick(f, netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a"))
}

// APIService lists the addresses of the Service `kubernetes`.
func APIService(f Family) []netip.Addr {
	return pick(f, netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1"))
}

// BridgeAddrs are the machine's own addresses on the underlay.
func BridgeAddrs(f Family) []netip.Prefix {
	return pick(f, netip.MustParsePrefix("10.200.0.1/24"), netip.MustParsePrefix("fd00:c8::1/64"))
}

// BalancerAddrs are the load balancer's own addresses on the underlay.
func BalancerAddrs(f Family) []netip.Prefix { return underlay(f, 5) }

// BalancerRanges are the ranges of the addresses that the load balancer hands out.
func BalancerRanges(f Family) []netip.Prefix {
	return pick(f, netip.MustParsePrefix("10.201.0.0/24"), netip.MustParsePrefix("fd00:c9::/120"))
}

// ClientAddrs are the machine's addresses as a client of the load balancer: those of the bridge are in the
// nodes' subnet, and a client out there is not.
func ClientAddrs(f Family) []netip.Prefix {
	return pick(f, netip.MustParsePrefix("10.201.1.1/32"), netip.MustParsePrefix("fd00:c9::1:1/128"))
}

// Node is a node's number; everything else about its name follows from it.
type Node int

// Nodes lists the first n nodes.
func Nodes(n int) []Node {
	out := make([]Node, n)
	for i := range out {
		out[i] = Node(i + 1)
	}
	return out
}

// ParseNode reads a node's name.
func ParseNode(name string) (Node, error) {
	i, err := strconv.Atoi(strings.TrimPrefix(name, NodePrefix))
	if err != nil || !strings.HasPrefix(name, NodePrefix) || i < 1 || i > MaxNodes || Node(i).String() != name {
		return 0, fmt.Errorf("node %q: want %s1 ... %s%d", name, NodePrefix, NodePrefix, MaxNodes)
	}
	return Node(i), nil
}

// String is the name of the node, of its network namespace and of its cgroup.
func (n Node) String() string { return NodePrefix + strconv.Itoa(int(n)) }

// Port is the node's port on the underlay bridge, also behind a NAT.
func (n Node) Port() string { return "tb-p" + strconv.Itoa(int(n)) }

// Router is the network namespace of the NAT router in front of the node.
func (n Node) Router() string { return "tb-nat-" + n.String() }

// Addrs are the node's addresses on the underlay, with the underlay's length.
func (n Node) Addrs(f Family) []netip.Prefix { return underlay(f, 10+int(n)) }

// MovedAddrs are the node's addresses after it got others.
func (n Node) MovedAddrs(f Family) []netip.Prefix { return underlay(f, 180+int(n)) }

// RouterAddrs are the outer addresses of the NAT router in front of the node.
func (n Node) RouterAddrs(f Family) []netip.Prefix { return underlay(f, 100+int(n)) }

func underlay(f Family, host int) []netip.Prefix {
	return pick(f,
		netip.MustParsePrefix(fmt.Sprintf("10.200.0.%d/24", host)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:c8::%d/64", host)))
}

// BaselinePods are the Pod ranges of the node under the baseline network
// (`--cni=ptp`). Weftnet's operator allocates its own.
func (n Node) BaselinePods(f Family) []netip.Prefix {
	return pick(f,
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n)))
}

// APIServer is the address that everything reaches the API server at.
func APIServer(f Family) netip.AddrPort {
	return netip.AddrPortFrom(Node(1).Addrs(f)[0].Addr(), APIPort)
}

// Join prints a list as the Kubernetes flags want it.
func Join[T fmt.Stringer](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.String()
	}
	return strings.Join(texts, ",")
}
