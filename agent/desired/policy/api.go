package policy

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// TableName is the name of the nftables table, of family inet.
const TableName = "weftnet-policy"

// RevokedMark is the bit of a connection's mark that cuts it: packets of either direction are
// refused (TCP with a reset) for as long as it is set. Deleting the entry of a flow that is no
// longer allowed is not enough: the next packet that its server sends would begin a new flow in the
// other direction, which policies may well allow, and the client would go on inside its replies.
const RevokedMark uint32 = 0x0001_0000

// Direction is a packet's way as seen from the Pod that policies select.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Verdict is what a tier, or all of them, say of a packet.
type Verdict uint8

// The verdicts. Next leaves the packet to the tier that follows.
const (
	Next Verdict = iota
	Accept
	Deny
)

func (v Verdict) String() string { return [...]string{"next", "accept", "deny"}[v] }

// Tier is where a decision was taken.
type Tier string

// The tiers, in their order, and what stands before and behind them.
const (
	// TierAlways are a Pod's packets to itself, and those of its own node to it.
	TierAlways Tier = "always"
	// TierUnknown denies while the Pod's object is not known yet and a policy could select it.
	TierUnknown       Tier = "unknown Pod"
	TierAdmin         Tier = "Admin"
	TierNetworkPolicy Tier = "NetworkPolicy"
	TierBaseline      Tier = "Baseline"
	// TierDefault accepts what no policy has decided.
	TierDefault Tier = "default"
)

// Packet is a packet after destination NAT and before source NAT, the first of its flow.
type Packet struct {
	Protocol uint8
	Src, Dst netip.Addr
	// Port is the destination port, for protocols that have one.
	Port uint16
}

// Reason says what took a decision.
type Reason struct {
	Direction Direction
	// Pod is the one that was judged for.
	Pod  snapshot.NamespacedName
	Tier Tier
	// Policies decided: the one with the rule, or all that isolate the Pod where no rule of any matched.
	Policies []string
	// Rule and Peer count from 0 in the policy's ingress or egress; -1 means none. RuleName is what
	// a ClusterNetworkPolicy calls the rule.
	Rule, Peer int
	RuleName   string
}

// String tells the reason in a line, for example `ingress of prod/web: NetworkPolicy prod/allow-lb, rule 0, peer 1`.
func (r Reason) String() string {
	var b strings.Builder
	b.WriteString(r.Direction.String() + " of " + r.Pod.String() + ": " + string(r.Tier))
	if len(r.Policies) > 0 {
		b.WriteString(" " + strings.Join(r.Policies, ", "))
	}
	if r.Rule < 0 {
		return b.String()
	}
	b.WriteString(", rule " + strconv.Itoa(r.Rule))
	if r.RuleName != "" {
		b.WriteString(" " + strconv.Quote(r.RuleName))
	}
	if r.Peer >= 0 {
		b.WriteString(", peer " + strconv.Itoa(r.Peer))
	}
	return b.String()
}

// Decision is what one direction says of a packet.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Audit are the policies in audit mode that would have denied the packet.
	Audit []Reason
}

// Explanation is what becomes of a packet. A direction is nil where no Pod stands at that end.
type Explanation struct {
	Allowed         bool
	Egress, Ingress *Decision
}

// Self is this node.
type Self struct {
	Name string
	// IPs are all addresses of its own, mesh addresses among them: what they send to local Pods passes.
	IPs []netip.Addr
}

// Endpoint is the interface of a Pod on this node, as the CNI plugin made it.
type Endpoint struct {
	// Link is the host's end.
	Link string
	Pod  snapshot.NamespacedName
	// UID tells the Pod from its namesake before; empty means any.
	UID string
	IPs []netip.Addr
}

// LogMode says of which denied packets the kernel sends word.
type LogMode uint8

// The modes.
const (
	LogAnnotated LogMode = iota
	LogNever
	LogAll
)

// Options are the settings. What is zero has a default.
type Options struct {
	Log LogMode
	// LogGroup is the netlink log group; LogRate bounds the packets per second that each rule sends.
	LogGroup uint16
	LogRate  uint32
}

// Defaults of Options.
const (
	DefaultLogGroup = 87
	DefaultLogRate  = 20
)

func (o Options) withDefaults() Options {
	o.LogGroup = cmp.Or(o.LogGroup, DefaultLogGroup)
	o.LogRate = cmp.Or(o.LogRate, DefaultLogRate)
	return o
}

// Site is a place in the rules that denies, or in audit mode would. Its ID is part of the log
// prefix and of the counter's name, and the same wherever the same policies deny.
type Site struct {
	ID        string
	Audit     bool
	Direction Direction
	Tier      Tier
	Policies  []string
	// Rule is the rule that denies, -1 for the isolation that NetworkPolicies bring.
	Rule     int
	RuleName string
	Log      bool
}

// Counter is the name of the named counter of the site.
func (s Site) Counter() string {
	if s.Audit {
		return "audit-" + s.ID
	}
	return "deny-" + s.ID
}

// LogPrefix begins the prefix of every packet that is logged; the site's ID and a space follow.
const (
	LogPrefixDeny  = "weftnet-deny "
	LogPrefixAudit = "weftnet-audit "
)

// SiteOfPrefix reads the ID of the site out of the prefix of a logged packet.
func SiteOfPrefix(prefix string) (id string, ok bool) {
	for _, p := range []string{LogPrefixDeny, LogPrefixAudit} {
		if id, ok := strings.CutPrefix(prefix, p); ok {
			return strings.TrimSpace(id), true
		}
	}
	return "", false
}

// Problem is what cannot be honoured of an object. What it touches stays closed.
type Problem struct {
	// Kind is NetworkPolicy or ClusterNetworkPolicy.
	Kind                 string
	Namespace, Name, UID string
	Generation           int64
	// Field is the path in the object, for example spec.ingress[0].from[1].ipBlock.cidr.
	Field   string
	Message string
}

func (p Problem) compare(o Problem) int {
	return cmp.Or(
		cmp.Compare(p.Kind, o.Kind), cmp.Compare(p.Namespace, o.Namespace), cmp.Compare(p.Name, o.Name),
		cmp.Compare(p.Field, o.Field), cmp.Compare(p.Message, o.Message),
	)
}

func compareNames(a, b snapshot.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Flow is a tracked connection: its tuple as it began, and the one of its replies.
type Flow struct {
	Protocol           uint8
	Src, Dst           netip.AddrPort
	ReplySrc, ReplyDst netip.AddrPort
}

// ElementDelta is what changes in the elements of one set, of which only the head is given.
type ElementDelta struct {
	Set         state.Set
	Delete, Add []state.Element
}

// Patch turns the table of the last Commit into the present one, in one transaction. What is deleted
// goes first, references before what they refer to; what is added comes in the order of the fields.
type Patch struct {
	// Create says that nothing was committed before: the patch is the whole table.
	Create      bool
	DelChains   []string
	DelSets     []string
	DelCounters []string
	AddCounters []string
	// AddChains and AddSets are complete, with rules and elements. A chain of the same name in
	// DelChains is made anew.
	AddChains []state.Chain
	AddSets   []state.Set
	// Deltas are the elements of sets that stay.
	Deltas []ElementDelta
	// Suspects are addresses of which flows may no longer be allowed, see Engine.Revoked.
	Suspects Suspects
}

// Empty tells whether the table stays as it is.
func (p Patch) Empty() bool {
	return !p.Create && len(p.DelChains)+len(p.DelSets)+len(p.DelCounters)+len(p.AddCounters)+
		len(p.AddChains)+len(p.AddSets)+len(p.Deltas) == 0
}

// Suspects narrow down the flows that are worth a judgement: those with one of the addresses at either
// end. The zero value suspects none.
type Suspects struct {
	All   bool
	Addrs map[netip.Addr]bool
}
