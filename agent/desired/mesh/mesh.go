// Package mesh computes what the mesh of this node shall be: devices and peers, routes, rules and
// settings, and the problems found on the way. It is pure: a bad object becomes a Problem of that
// object and the rest goes on, and the order of the input does not matter.
package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Key is one of the node's own keys. Each has a device of its own, so that two stand side by side
// while a key is replaced.
type Key struct {
	Epoch   int64
	Private state.PrivateKey
}

// Device is the name of the key's device, which alternates from key to key.
func (k Key) Device() string {
	if k.Epoch%2 == 0 {
		return "weft1"
	}
	return "weft0"
}

// Input is everything the plan depends on.
type Input struct {
	Snapshot snapshot.Snapshot
	// Keys are the node's keys, oldest first. The last is the one that is published.
	Keys  []Key
	Facts facts.Facts
	// Paths is what the last plan returned; nil at the start.
	Paths map[state.PublicKey]Path
	Now   time.Time
}

// Device is a mesh device: its WireGuard side, and the link that carries it.
type Device struct {
	WG   state.Device
	Link state.Link
}

// Peer is another node as the plan sees it.
type Peer struct {
	Node string
	// Key is zero when the node's key was refused.
	Key state.PublicKey
	// Published are the endpoints that the node claims for itself, the best first.
	Published []netip.AddrPort
	// MeshIPs are the node's addresses in the mesh.
	MeshIPs []netip.Addr
	// BehindNAT says that the node is heard from an address or port that it does not publish.
	BehindNAT bool
	// Refused says why the node is no peer although it has published a key; empty when it is one.
	Refused string
}

// Own is what this node says of itself.
type Own struct {
	PublicKey  state.PublicKey
	KeyEpoch   int64
	Endpoints  []netip.Addr
	ListenPort uint16
	MTU        int
	PodCIDRs   []netip.Prefix
	MeshIPs    []netip.Addr
	// NodeIPs are the node's addresses as the operator verified them.
	NodeIPs []netip.Addr
}

// Output is the wanted state, sorted.
type Output struct {
	// Waiting says what has to happen before the node can have a mesh; then nothing but Pools and
	// Own is filled in, and what stands in the kernel stays as it is.
	Waiting string
	// Partial says that nothing may be deleted, see KeepDevice and KeepRoutes.
	Partial bool

	Own     Own
	Peers   []Peer
	Devices []Device
	Routes  []state.Route
	Rules   []state.Rule
	// Sysctls of the node, to be in force before anything else.
	Sysctls []state.Sysctl
	// DeviceSysctls can only be set once the devices exist.
	DeviceSysctls []state.Sysctl

	// PeerIPs are the addresses of all other nodes, as the operator verified them.
	PeerIPs []netip.Addr
	// Pools are the ranges of all pools; ClusterCIDRs those and all blocks outside of them.
	Pools        []netip.Prefix
	ClusterCIDRs []netip.Prefix
	NoMasquerade []netip.Prefix

	Paths    map[state.PublicKey]Path
	Problems []Problem
}

// Problem is a fault of one API object.
type Problem struct {
	Kind, Name string
	// Namespace of the object; empty for what is in none.
	Namespace string
	Reason    string
	Message   string
}

// The kinds of objects with problems.
const (
	KindMeshNode   = "MeshNode"
	KindIPPool     = "IPPool"
	KindMeshConfig = "MeshConfig"
	KindService    = "Service"
)

// Reasons of problems.
const (
	ReasonInvalidCIDR     = "InvalidCIDR"
	ReasonInvalidAddress  = "InvalidAddress"
	ReasonInvalidKey      = "InvalidPublicKey"
	ReasonDuplicateKey    = "DuplicatePublicKey"
	ReasonOverlap         = "OverlappingAllowedIPs"
	ReasonInvalidEndpoint = "InvalidEndpoint"
	ReasonInvalidPort     = "InvalidListenPort"
	ReasonInvalidMTU      = "InvalidMTU"
	ReasonBackend         = "BackendUnavailable"
)

func (p Problem) String() string {
	name := p.Name
	if p.Namespace != "" {
		name = p.Namespace + "/" + p.Name
	}
	return fmt.Sprintf("%s %s: %s: %s", p.Kind, name, p.Reason, p.Message)
}

// Compare orders problems by object, then by reason and message.
func (p Problem) Compare(o Problem) int {
	return cmp.Or(cmp.Compare(p.Kind, o.Kind), cmp.Compare(p.Namespace, o.Namespace), cmp.Compare(p.Name, o.Name), cmp.Compare(p.Reason, o.Reason), cmp.Compare(p.Message, o.Message))
}

type problems struct{ list []Problem }

func (p *problems) add(kind, name, reason, format string, args ...any) {
	p.list = append(p.list, Problem{Kind: kind, Name: name, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (p *problems) sorted() []Problem {
	slices.SortFunc(p.list, Problem.Compare)
	return slices.Compact(p.list)
}

// Plan computes the whole mesh of this node.
func Plan(in Input) Output {
	var faults problems
	out := Output{Partial: in.Snapshot.Partial}
	out.Pools = poolsOf(in.Snapshot.Pools, in.Facts.UplinkAddrs, &faults)
	out.NoMasquerade = prefixesOf(KindMeshConfig, "default", "noMasqueradeCIDRs", in.Snapshot.Config.NoMasqueradeCIDRs, &faults)
	members := membersOf(in.Snapshot, &faults)
	settleClaims(members, in, out.Pools, &faults)
	settleKeys(members, in.Snapshot.Self, in.Keys, &faults)
	settleEndpoints(members, out.Pools, &faults)
	out.ClusterCIDRs = clusterCIDRs(out.Pools, members)
	own, others := split(members, in.Snapshot.Self)
	out.Own = ownOf(own, in)
	out.Peers = peersOf(in, others)
	for _, m := range others {
		out.PeerIPs = append(out.PeerIPs, m.nodeIPs...)
	}
	if out.Waiting = waitingFor(own, in, out.Pools); out.Waiting == "" {
		planMesh(&out, in, others, &faults)
	}
	out.Problems = faults.sorted()
	return out
}

// planMesh fills in everything that needs an allocation.
func planMesh(out *Output, in Input, others []*member, faults *problems) {
	chosen := choosePaths(in, others)
	out.Paths = chosen.paths
	out.Own.MTU = mtuOf(in, families(in, others), faults)
	for _, key := range in.Keys {
		out.Devices = append(out.Devices, deviceOf(key, *out, in, others, chosen))
	}
	active := out.Devices[len(out.Devices)-1].Link.Name
	out.Routes = routesOf(out.Own, out.Pools, others, active)
	out.Rules = rulesOf(out.Own, out.Pools)
	out.Sysctls = nodeSysctls(in.Facts)
	out.DeviceSysctls = deviceSysctls(out.Devices, in.Facts)
}

// waitingFor says what has to be known before there can be a mesh; empty when all of it is. The pools are part of it: the
// fail-closed rules are made of them, and no interface and no packet of the agent's own may come before those.
func waitingFor(own *member, in Input, pools []netip.Prefix) string {
	switch {
	case len(in.Keys) == 0:
		return "the node has no key"
	case own == nil && in.Snapshot.Partial:
		return "the API server has not answered in full since the agent began (does this node reach it? see the agent's log), and the peer cache on the disk does not know this node yet"
	case own == nil:
		return "the operator has not made the MeshNode of this node yet"
	case len(pools) == 0 && in.Snapshot.Partial:
		return "the API server has not told of the IPPools yet (does this node reach it? see the agent's log)"
	case len(own.podCIDRs) == 0:
		return "the operator has not allocated a Pod CIDR to this node yet"
	case in.Facts.Backend == "":
		return "no WireGuard backend has been found yet"
	default:
		return ""
	}
}

func split(members []*member, self string) (own *member, others []*member) {
	for _, m := range members {
		if m.Name == self {
			own = m
		} else {
			others = append(others, m)
		}
	}
	return own, others
}

func ownOf(own *member, in Input) Own {
	o := Own{Endpoints: slices.Clone(in.Facts.Endpoints)}
	if len(in.Keys) > 0 {
		key := in.Keys[len(in.Keys)-1]
		o.PublicKey, o.KeyEpoch = key.Private.Public(), key.Epoch
		o.ListenPort = listenPort(in.Snapshot.Config, key)
	}
	if own != nil {
		o.PodCIDRs, o.MeshIPs, o.NodeIPs = own.podCIDRs, own.meshIPs, own.nodeIPs
	}
	return o
}

func peersOf(in Input, others []*member) []Peer {
	var out []Peer
	for _, m := range others {
		if m.PublicKey == "" {
			continue // its agent has not started yet
		}
		p := Peer{Node: m.Name, Published: m.endpoints, MeshIPs: m.meshIPs, Refused: m.refused}
		if m.isPeer() {
			p.Key, p.BehindNAT = m.key, behindNAT(in, m)
		}
		out = append(out, p)
	}
	return out
}

// listenPort gives the devices of successive keys ports side by side.
func listenPort(cfg snapshot.Config, key Key) uint16 {
	port := cfg.ListenPort
	if port < 1 || port > 65535 {
		port = snapshot.DefaultListenPort
	}
	switch {
	case key.Device() == "weft0":
	case port == 65535:
		port--
	default:
		port++
	}
	return uint16(port)
}

func deviceOf(key Key, out Output, in Input, others []*member, chosen choices) Device {
	wg := state.Device{Name: key.Device(), PrivateKey: key.Private, ListenPort: listenPort(in.Snapshot.Config, key)}
	for _, m := range others {
		if !m.isPeer() {
			continue
		}
		wg.Peers = append(wg.Peers, state.Peer{
			PublicKey:  m.key,
			Endpoint:   chosen.endpoint[m.key],
			AllowedIPs: m.allowedIPs(),
			Keepalive:  keepalive(in, m),
		})
	}
	link := state.Link{Name: wg.Name, Kind: in.Facts.Backend, MTU: out.Own.MTU, Up: true, Alias: state.LinkAlias}
	for _, ip := range out.Own.MeshIPs {
		if ip.Is4() || in.Facts.IPv6 {
			link.Addresses = append(link.Addresses, hostPrefix(ip))
		}
	}
	return Device{WG: wg.Normalized(), Link: link.Normalized()}
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
