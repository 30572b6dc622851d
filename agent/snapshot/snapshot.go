// Package snapshot holds what the agent knows of the cluster at one moment: plain values, as the
// API objects say them and not yet judged. The source makes snapshots, the cache keeps one on disk,
// and desired/mesh turns one into a wanted state. It imports the standard library only.
package snapshot

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Node is one MeshNode. Texts that should be keys, addresses or prefixes stay texts: whether they
// are is for desired/mesh to say, as a problem of that object.
type Node struct {
	Name string `json:"name"`
	// Created orders nodes by age: where two claim the same, the older one keeps it.
	Created time.Time `json:"created"`
	// Generation counts the changes of the spec.
	Generation int64 `json:"generation,omitempty"`

	// From the spec, which only the operator writes.
	PodCIDRs []string `json:"podCIDRs,omitempty"`
	MeshIPs  []string `json:"meshIPs,omitempty"`
	NodeIPs  []string `json:"nodeIPs,omitempty"`

	// From the status, which only the node's own agent writes.
	PublicKey  string   `json:"publicKey,omitempty"`
	KeyEpoch   int64    `json:"keyEpoch,omitempty"`
	Endpoints  []string `json:"endpoints,omitempty"`
	ListenPort int32    `json:"listenPort,omitempty"`
	MTU        int32    `json:"mtu,omitempty"`
	// NATPeers are the nodes that this one hears through a NAT.
	NATPeers []string `json:"natPeers,omitempty"`

	// KeyHeldBy names the node that had PublicKey first, where that is another one, see SettleKeys.
	KeyHeldBy string `json:"keyHeldBy,omitempty"`
}

// Pool is one IPPool. A disabled pool counts as long as it exists: its blocks are in use.
type Pool struct {
	Name  string   `json:"name"`
	CIDRs []string `json:"cidrs,omitempty"`
}

// Config is the MeshConfig, with its defaults filled in.
type Config struct {
	ListenPort        int32         `json:"listenPort"`
	MTU               int32         `json:"mtu,omitempty"`
	Keepalive         time.Duration `json:"keepalive"`
	Backend           string        `json:"backend,omitempty"`
	NoMasqueradeCIDRs []string      `json:"noMasqueradeCIDRs,omitempty"`
	ServiceProxy      ServiceConfig `json:"serviceProxy,omitzero"`
	Policy            PolicyConfig  `json:"policy,omitzero"`
}

// PolicyConfig is the settings of the policy engine; what is zero has a default.
type PolicyConfig struct {
	LogDenied string `json:"logDenied,omitempty"`
	LogRate   int32  `json:"logRate,omitempty"`
}

// ServiceConfig is the settings of the service proxy.
type ServiceConfig struct {
	// NodePortAddresses are ranges of node addresses; none means the primary ones, of the Node object.
	NodePortAddresses []netip.Prefix `json:"nodePortAddresses,omitempty"`
	// ConntrackMaxPerCore and ConntrackMin size connection tracking; both 0 leave it alone.
	ConntrackMaxPerCore int64 `json:"conntrackMaxPerCore,omitempty"`
	ConntrackMin        int64 `json:"conntrackMin,omitempty"`
	// TCPEstablished and TCPCloseWait are conntrack's timeouts; 0 leaves them alone.
	TCPEstablished time.Duration `json:"tcpEstablished,omitempty"`
	TCPCloseWait   time.Duration `json:"tcpCloseWait,omitempty"`
	TCPBeLiberal   bool          `json:"tcpBeLiberal,omitempty"`
}

// Equal tells whether both are the same settings.
func (c ServiceConfig) Equal(o ServiceConfig) bool {
	return slices.Equal(c.NodePortAddresses, o.NodePortAddresses) && c.ConntrackMaxPerCore == o.ConntrackMaxPerCore && c.ConntrackMin == o.ConntrackMin &&
		c.TCPEstablished == o.TCPEstablished && c.TCPCloseWait == o.TCPCloseWait && c.TCPBeLiberal == o.TCPBeLiberal
}

// DefaultServiceConfig is what the schema of a MeshConfig says.
func DefaultServiceConfig() ServiceConfig {
	return ServiceConfig{ConntrackMaxPerCore: 32768, ConntrackMin: 131072, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour}
}

// Defaults of a MeshConfig that is absent or leaves a field out; the same as in its schema.
const (
	DefaultListenPort = 51820
	DefaultKeepalive  = 25 * time.Second
)

// Snapshot is the cluster as this node sees it.
type Snapshot struct {
	// Partial says that the snapshot does not prove absence: it comes from the cache, or not every
	// list has been read from the API server yet. Nothing may be deleted on its word.
	Partial bool `json:"-"`
	// Self is the name of this node; its MeshNode is among Nodes when it is known.
	Self string `json:"self"`
	// Nodes are all MeshNodes, sorted by name.
	Nodes []Node `json:"nodes"`
	// InternalIPs and ExternalIPs are the addresses of this node's own Node object, in its order.
	InternalIPs []netip.Addr `json:"internalIPs,omitempty"`
	ExternalIPs []netip.Addr `json:"externalIPs,omitempty"`
	// Pools are all IPPools, sorted by name.
	Pools  []Pool `json:"pools"`
	Config Config `json:"config"`
}

// Node finds a MeshNode by name.
func (s Snapshot) Node(name string) (Node, bool) {
	i, found := slices.BinarySearchFunc(s.Nodes, name, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !found {
		return Node{}, false
	}
	return s.Nodes[i], true
}

// Own is this node's MeshNode.
func (s Snapshot) Own() (Node, bool) { return s.Node(s.Self) }

// Equal tells whether both say the same of the cluster.
func (s Snapshot) Equal(o Snapshot) bool {
	return s.Partial == o.Partial && s.Self == o.Self &&
		slices.EqualFunc(s.Nodes, o.Nodes, Node.Equal) &&
		slices.Equal(s.InternalIPs, o.InternalIPs) && slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.EqualFunc(s.Pools, o.Pools, Pool.Equal) && s.Config.Equal(o.Config)
}

// Equal tells whether both say the same of the node.
func (n Node) Equal(o Node) bool {
	if !n.Created.Equal(o.Created) {
		return false
	}
	return slices.Equal(n.PodCIDRs, o.PodCIDRs) && slices.Equal(n.MeshIPs, o.MeshIPs) &&
		slices.Equal(n.NodeIPs, o.NodeIPs) && slices.Equal(n.Endpoints, o.Endpoints) && slices.Equal(n.NATPeers, o.NATPeers) &&
		n.Name == o.Name && n.Generation == o.Generation && n.PublicKey == o.PublicKey && n.KeyEpoch == o.KeyEpoch &&
		n.ListenPort == o.ListenPort && n.MTU == o.MTU && n.KeyHeldBy == o.KeyHeldBy
}

// Equal tells whether both are the same pool.
func (p Pool) Equal(o Pool) bool { return p.Name == o.Name && slices.Equal(p.CIDRs, o.CIDRs) }

// Equal tells whether both hold the same settings.
func (c Config) Equal(o Config) bool {
	return c.ListenPort == o.ListenPort && c.MTU == o.MTU && c.Keepalive == o.Keepalive &&
		c.Backend == o.Backend && slices.Equal(c.NoMasqueradeCIDRs, o.NoMasqueradeCIDRs) && c.ServiceProxy.Equal(o.ServiceProxy) &&
		c.Policy == o.Policy
}

// Sorted returns a copy with nodes and pools by name. The slices inside nodes and pools are shared:
// their order is part of what they say, and nobody writes to a snapshot.
func (s Snapshot) Sorted() Snapshot {
	s.Nodes = slices.Clone(s.Nodes)
	slices.SortFunc(s.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	s.Pools = slices.Clone(s.Pools)
	slices.SortFunc(s.Pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
	return s
}
