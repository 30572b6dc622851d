//go:build netns

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// lab is the node of the random worlds on the real kernel: five Pods, each behind its link, and a
// namespace behind weft0 that has every other address.
type lab struct {
	t      *testing.T
	ns     map[string]*nstest.Namespace // node, outside, and Pods by link
	kernel *nft.Kernel
	probe  *nft.Kernel
	last   uint16 // source port
}

const (
	probeTable = "probe"
	firstPort  = 20000
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ns: map[string]*nstest.Namespace{"node": nstest.New(t)}, last: firstPort}
	for _, setting := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0"} {
		l.run("node", "sysctl -q -w net/"+setting)
	}
	for _, a := range newWorld(0).self.IPs {
		l.run("node", "ip addr add "+a.String()+" dev lo")
	}
	for i := 0; i < 15; i += 3 {
		l.join(fmt.Sprintf("weftp%d", i), podAddrs(i))
	}
	outside := addrs("203.0.113.7", "2001:db8::7")
	for i := range 15 {
		if i%3 != 0 {
			outside = append(outside, podAddrs(i)...)
		}
	}
	for i := 2; i <= 3; i++ {
		outside = append(outside, addrs(fmt.Sprintf("10.200.0.%d", i), fmt.Sprintf("fd00:c8::%d", i), fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:244:%d::1", i))...)
	}
	l.join("weft0", outside)
	l.open()
	return l
}

// join makes a namespace with addresses behind a link of the node. Neighbours are known beforehand,
// so that a packet has passed the hooks when its sender goes on.
func (l *lab) join(link string, has []netip.Addr) {
	l.t.Helper()
	l.ns[link] = nstest.New(l.t)
	l.run(link, "sysctl -q -w net/ipv6/conf/default/accept_dad=0")
	l.run("node", "ip link add "+link+" type veth peer name tmp0")
	var err error
	l.ns["node"].Do(l.t, func() {
		var peer netlink.Link
		if peer, err = netlink.LinkByName("tmp0"); err == nil {
			err = netlink.LinkSetNsFd(peer, l.ns[link].Fd())
		}
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.run("node", "ip link set "+link+" up")
	l.run(link, "ip link set tmp0 name eth0")
	l.run(link, "ip link set eth0 up")
	gateway, here := l.mac("node", link), l.mac(link, "eth0")
	for _, g := range []string{"169.254.1.1", "fe80::1:1"} {
		l.run(link, "ip neigh add "+g+" lladdr "+gateway+" dev eth0 nud permanent")
	}
	l.run(link, "ip route add 169.254.1.1/32 dev eth0")
	l.run(link, "ip route add default via 169.254.1.1 dev eth0")
	l.run(link, "ip -6 route add default via fe80::1:1 dev eth0")
	for _, a := range has {
		l.run(link, "ip addr add "+netip.PrefixFrom(a, a.BitLen()).String()+" dev eth0")
		l.run("node", "ip route add "+a.String()+" dev "+link)
		l.run("node", "ip neigh add "+a.String()+" lladdr "+here+" dev "+link+" nud permanent")
	}
}

func (l *lab) run(ns, command string) string {
	l.t.Helper()
	var out []byte
	var err error
	words := strings.Fields(command)
	l.ns[ns].Do(l.t, func() { out, err = exec.Command(words[0], words[1:]...).CombinedOutput() })
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", ns, command, err, out)
	}
	return string(out)
}

func (l *lab) mac(ns, link string) string {
	_, rest, _ := strings.Cut(l.run(ns, "ip -o link show dev "+link), "link/ether ")
	mac, _, _ := strings.Cut(rest, " ")
	return mac
}

// open opens the tables, and writes one that notes every packet which the policies let pass.
func (l *lab) open() {
	l.t.Helper()
	var errs error
	l.ns["node"].Do(l.t, func() {
		var err1, err2 error
		l.kernel, err1 = nft.NewTable(policy.TableName)
		l.probe, err2 = nft.NewTable(probeTable)
		errs = errors.Join(err1, err2)
	})
	if errs != nil {
		l.t.Fatal(errs)
	}
	l.t.Cleanup(func() { _ = errors.Join(l.kernel.Close(), l.probe.Close()) })
	if _, err := l.probe.Ensure(l.t.Context(), notes()); err != nil {
		l.t.Fatal(err)
	}
}

func notes() state.Table {
	t := state.Table{Family: "inet", Name: probeTable}
	var rules []state.ChainRule
	for _, f := range []struct {
		set          string
		addr         state.DataType
		saddr, daddr state.Field
	}{{"seen4", state.TypeIPv4, state.FieldIPSaddr, state.FieldIPDaddr}, {"seen6", state.TypeIPv6, state.FieldIP6Saddr, state.FieldIP6Daddr}} {
		t.Sets = append(t.Sets, state.Set{Name: f.set, Dynamic: true, Size: 65535, Key: []state.DataType{f.addr, f.addr, state.TypeProto, state.TypePort}})
		rules = append(rules, state.ChainRule{Statements: []state.Statement{
			state.Remember{Set: f.set, Fields: state.Fields(f.saddr, f.daddr, state.FieldL4Proto, state.FieldTHSport)},
		}})
	}
	t.Chains = []state.Chain{
		{Name: "in", Type: state.ChainFilter, Hook: state.HookInput, Priority: policy.Priority + 1, Rules: rules},
		{Name: "out", Type: state.ChainFilter, Hook: state.HookPostrouting, Priority: policy.Priority + 1, Rules: rules},
	}
	return t
}

// seen are the packets that passed, as sent writes them.
func (l *lab) seen() map[string]bool {
	out := map[string]bool{}
	for _, set := range []string{"seen4", "seen6"} {
		_, list, _ := strings.Cut(l.run("node", "nft -n list set inet "+probeTable+" "+set), "elements = {")
		list, _, _ = strings.Cut(list, "}")
		for el := range strings.SplitSeq(list, ",") {
			out[strings.TrimSpace(el)] = true
		}
	}
	return out
}

// sent is one packet on its way.
type sent struct {
	policy.Packet
	source uint16
}

func (s sent) String() string {
	return fmt.Sprintf("%s . %s . %d . %d", s.Src, s.Dst, s.Protocol, s.source)
}

// send sends packets from where their sources are, each with a source port of its own.
func (l *lab) send(w *world, packets []policy.Packet) []sent {
	l.t.Helper()
	from := map[string][]sent{}
	var out []sent
	for _, p := range packets {
		l.last++
		s := sent{p, l.last}
		out = append(out, s)
		ns := w.linkOf(p.Src)
		if slices.Contains(w.self.IPs, p.Src) {
			ns = "node"
		} else if ns == "" {
			ns = "weft0"
		}
		from[ns] = append(from[ns], s)
	}
	for ns, list := range from {
		var err error
		l.ns[ns].Do(l.t, func() {
			for _, s := range list {
				if e := s.emit(); e != nil {
					err = errors.Join(err, fmt.Errorf("send %s: %w", s, e))
				}
			}
		})
		if err != nil {
			l.t.Fatalf("%s: %v", ns, err)
		}
	}
	return out
}

// emit sends the packet from the thread's namespace: a SYN, a datagram, or an SCTP INIT.
func (s sent) emit() error {
	family, source, destination := unix.AF_INET, sockaddr(s.Src, s.source), sockaddr(s.Dst, s.Port)
	if s.Src.Is6() {
		family = unix.AF_INET6
	}
	kind, protocol := unix.SOCK_DGRAM, 0
	switch s.Protocol {
	case unix.IPPROTO_TCP:
		kind = unix.SOCK_STREAM
	case unix.IPPROTO_SCTP:
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_SCTP
		source, destination = sockaddr(s.Src, 0), sockaddr(s.Dst, 0)
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, source); err != nil {
		return err
	}
	switch kind {
	case unix.SOCK_STREAM:
		if err := unix.Connect(fd, destination); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return nil
	case unix.SOCK_RAW:
		return unix.Sendto(fd, s.sctpInit(), 0, destination)
	default:
		return unix.Sendto(fd, []byte("hello"), 0, destination)
	}
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}

// apply writes a patch to the kernel.
func (l *lab) apply(ctx context.Context, p policy.Patch) error {
	return l.kernel.Apply(ctx, changeOf(p))
}
