package state

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// FrontendKey is an address, a transport protocol and a port that a Service is reached by on this
// node. A NodePort is one frontend for each node address that it is open on.
type FrontendKey struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// Compare orders by address, protocol and port.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Proto, o.Proto), cmp.Compare(k.Port, o.Port))
}

func (k FrontendKey) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(k.Addr, k.Port), ProtoValue(k.Proto).Format(TypeProto))
}

// FrontendKind says which part of a Service a frontend comes from.
type FrontendKind uint8

// The kinds, in the order of their weight where two Services claim one key.
const (
	FrontendClusterIP FrontendKind = iota
	FrontendNodePort
	FrontendLoadBalancer
	FrontendExternalIP
)

func (k FrontendKind) String() string {
	switch k {
	case FrontendClusterIP:
		return "clusterIP"
	case FrontendNodePort:
		return "nodePort"
	case FrontendLoadBalancer:
		return "loadBalancer"
	case FrontendExternalIP:
		return "externalIP"
	default:
		return fmt.Sprintf("kind(%d)", k)
	}
}

// TargetVerdict is what becomes of a new connection to a frontend.
type TargetVerdict uint8

// The verdicts of a target.
const (
	TargetForward TargetVerdict = iota // goes to one of the endpoints
	TargetRefuse                       // no endpoint anywhere: TCP reset or ICMP port unreachable
	TargetDrop                         // policy Local and no endpoint on this node: silence
)

// Target is where new connections go.
type Target struct {
	Verdict TargetVerdict
	// Endpoints are sorted and unique; more than none exactly where the verdict is TargetForward.
	Endpoints []netip.AddrPort
}

// Equal tells whether both lead to the same.
func (t Target) Equal(o Target) bool {
	return t.Verdict == o.Verdict && slices.Equal(t.Endpoints, o.Endpoints)
}

// Frontend is one way into a Service on this node, with all policies, conditions and hints already
// settled.
type Frontend struct {
	FrontendKey
	Kind FrontendKind
	// PortName is the name of the Service's port; all frontends of a port lead to the same endpoints.
	PortName string
	// Affinity is how long a client stays with its endpoint after its last connection; 0 means not
	// at all.
	Affinity time.Duration
	// Inside is for connections of this node's processes and of Pods, Outside for all others.
	Inside, Outside Target
	// ExternalLocal says that externalTrafficPolicy Local holds here: connections from outside keep
	// their source address. Without it Inside and Outside are the same.
	ExternalLocal bool
	// Alive are, of a UDP frontend, all endpoints that answer, sorted: flows to one of them go on, also
	// where new ones go elsewhere because it is about to end or a policy has changed. Nil for the
	// other protocols, whose connections are left alone in any case.
	Alive []netip.AddrPort
	// Sources are the ranges that may connect at all, of the address's family; nil means everybody.
	// An empty list that is not nil means nobody.
	Sources []netip.Prefix
}

// Equal tells whether both are the same frontend with the same meaning.
func (f Frontend) Equal(o Frontend) bool {
	return f.FrontendKey == o.FrontendKey && f.Kind == o.Kind && f.PortName == o.PortName && f.Affinity == o.Affinity &&
		f.Inside.Equal(o.Inside) && f.Outside.Equal(o.Outside) && f.ExternalLocal == o.ExternalLocal && slices.Equal(f.Alive, o.Alive) &&
		(f.Sources == nil) == (o.Sources == nil) && slices.Equal(f.Sources, o.Sources)
}
