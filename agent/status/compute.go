package status

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/agent/reconcile/policy"
	"github.com/weftnet/weftnet/agent/reconcile/service"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Reasons of the conditions.
const (
	reasonInForce     = "InForce"
	reasonWaiting     = "Waiting"
	reasonFailing     = "Failing"
	reasonNoPeers     = "NoPeers"
	reasonConnected   = "AllConnected"
	reasonPeersSilent = "PeersSilent"
	reasonNoneAnswers = "NoPeerConnected"
)

// maxNamed is how many peers a message names.
const maxNamed = 5

// Observed is what a status is computed from.
type Observed struct {
	Report reconcile.Report
	// Generation of this node's MeshNode that the report is about.
	Generation int64
	// KubeProxy is what was found of a kube-proxy beside Weftnet's own service proxy; nil while that
	// one is switched off, and before the first look.
	KubeProxy *kubeproxy.Finding
	// Policy is what the policy engine found; nil where it is off.
	Policy *policy.Report
	// Services is what the service proxy found; nil where it is off.
	Services *service.Report
	// Sockets is what the balancer at the socket does; nil while the service proxy is switched off or
	// has not come to it.
	Sockets *bpf.Report
	// FastPath is what the fast path between Pods of this node does; nil while it is switched off and
	// before a Pod could use it.
	FastPath *flow.Report
	// Before are the conditions as last written, for the time of their last transition.
	Before []metav1.Condition
	Now    time.Time
}

// Compute is the status to publish. It is pure, and the same as long as nothing that matters has
// changed: no age, no counter.
func Compute(o Observed) v1alpha1.MeshNodeStatus {
	own := o.Report.Plan.Own
	s := v1alpha1.MeshNodeStatus{
		PublicKey: own.PublicKey.String(), KeyEpoch: own.KeyEpoch,
		ListenPort: int32(own.ListenPort), MTU: int32(own.MTU),
		Backend: backendName(o.Report.Facts.Backend),
	}
	for _, e := range own.Endpoints {
		s.Endpoints = append(s.Endpoints, e.String())
	}
	s.NATPeers = natPeers(o.Report.Plan.Peers)
	silent := silentPeers(o)
	s.Peers = v1alpha1.PeerSummary{Expected: int32(len(o.Report.Plan.Peers)), Connected: int32(len(o.Report.Plan.Peers) - len(silent))}
	ready := meshReady(o.Report)
	peers := peersConnected(o.Report, silent)
	s.Conditions = []metav1.Condition{ready, peers, summary(ready, peers, s.Peers)}
	if f := o.KubeProxy; f != nil {
		s.Conditions = append(s.Conditions, condition(v1alpha1.ConditionKubeProxyPresent, f.Present(), f.Reason(), "%s", f.Message()))
	}
	if o.Policy != nil {
		s.Conditions = append(s.Conditions, policyReady(*o.Policy))
	}
	if o.Services != nil {
		s.Conditions = append(s.Conditions, servicesReady(*o.Services))
	}
	if r := o.Sockets; r != nil {
		s.Conditions = append(s.Conditions, socketBalancing(*r))
	}
	if r := o.FastPath; r != nil {
		s.Conditions = append(s.Conditions, fastPath(*r))
	}
	for i := range s.Conditions {
		stamp(&s.Conditions[i], o)
	}
	slices.SortFunc(s.Conditions, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	return s
}

// stamp keeps the time of the last transition while the status of the condition is the same.
func stamp(c *metav1.Condition, o Observed) {
	c.ObservedGeneration = o.Generation
	c.LastTransitionTime = metav1.NewTime(o.Now.Truncate(time.Second))
	for _, b := range o.Before {
		if b.Type == c.Type && b.Status == c.Status {
			c.LastTransitionTime = b.LastTransitionTime
		}
	}
	const maxMessage = 32768 // of the API
	c.Message = truncate(c.Message, maxMessage)
}

func backendName(kind state.LinkKind) v1alpha1.Backend {
	switch kind {
	case state.LinkWireGuard:
		return v1alpha1.BackendKernel
	case state.LinkTUN:
		return v1alpha1.BackendUserspace
	default:
		return ""
	}
}

func condition(kind string, ok bool, reason, format string, args ...any) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
	if ok {
		c.Status = metav1.ConditionTrue
	}
	return c
}

func meshReady(r reconcile.Report) metav1.Condition {
	switch {
	case r.Plan.Waiting != "":
		return condition(v1alpha1.ConditionMeshReady, false, reasonWaiting, "%s", r.Plan.Waiting)
	case r.Err != nil:
		return condition(v1alpha1.ConditionMeshReady, false, reasonFailing, "%s", oneLine(r.Err))
	default:
		return condition(v1alpha1.ConditionMeshReady, true, reasonInForce, "device, peers, routes and fail-closed rules are in force; backend: %s", r.BackendReason)
	}
}

func oneLine(err error) string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return err.Error()
}

// maxNATPeers is as many as the API takes.
const maxNATPeers = 1000

func natPeers(peers []mesh.Peer) []string {
	var out []string
	for _, p := range peers {
		if p.BehindNAT && len(out) < maxNATPeers {
			out = append(out, p.Node)
		}
	}
	slices.Sort(out)
	return out
}

// silence is a peer without a good handshake, and why that may be.
type silence struct {
	node, why string
}

func silentPeers(o Observed) []silence {
	var out []silence
	for _, p := range o.Report.Plan.Peers {
		stats := o.Report.Facts.Peers[p.Key]
		if p.Refused == "" && mesh.Connected(o.Report.Facts, p.Key, o.Now) {
			continue
		}
		out = append(out, silence{node: p.Node, why: whySilent(o.Report, p, stats)})
	}
	return out
}

// whySilent names the likeliest reason, without anything that changes from second to second.
func whySilent(r reconcile.Report, p mesh.Peer, stats state.PeerStats) string {
	switch {
	case p.Refused != "":
		return "refused because " + p.Refused
	case r.Plan.Waiting != "":
		return "this node is waiting itself"
	case len(p.Published) == 0 && !stats.Endpoint.IsValid():
		return "it publishes no endpoint, and has not been heard of"
	case !sharesFamily(r.Facts.UplinkAddrs, p.Published) && !stats.Endpoint.IsValid():
		return "it has no endpoint of an address family that this node has"
	case !stats.LastHandshake.IsZero() && mesh.Silent(r.Facts.Liveness[p.Key]) && r.Facts.Liveness[p.Key].HearsOnly():
		return fmt.Sprintf("no answer since %s, though its packets arrive: UDP from here to %s does not get through",
			r.Facts.Liveness[p.Key].Since.UTC().Truncate(time.Minute).Format("15:04 UTC"), stats.Endpoint)
	case !stats.LastHandshake.IsZero() && mesh.Silent(r.Facts.Liveness[p.Key]):
		return fmt.Sprintf("no answer since %s: the node is down, or UDP to %s or back does not get through",
			r.Facts.Liveness[p.Key].Since.UTC().Truncate(time.Minute).Format("15:04 UTC"), stats.Endpoint)
	case !stats.LastHandshake.IsZero():
		return fmt.Sprintf("silent since its handshake at %s: the node is down, or UDP to %s does not get through",
			stats.LastHandshake.UTC().Truncate(time.Minute).Format("15:04 UTC"), stats.Endpoint)
	case stats.RxBytes > 0:
		return fmt.Sprintf("packets come from %s and no handshake: one side does not have the other's current key", stats.Endpoint)
	default:
		return fmt.Sprintf("no answer from %s: UDP is blocked, or its agent does not have this node's key yet", stats.Endpoint)
	}
}

func sharesFamily(here []netip.Addr, there []netip.AddrPort) bool {
	return slices.ContainsFunc(there, func(t netip.AddrPort) bool {
		return slices.ContainsFunc(here, func(h netip.Addr) bool { return state.FamilyOf(h) == state.FamilyOf(t.Addr()) })
	})
}

func peersConnected(r reconcile.Report, silent []silence) metav1.Condition {
	expected := len(r.Plan.Peers)
	switch {
	case expected == 0:
		return condition(v1alpha1.ConditionPeersConnected, true, reasonNoPeers, "no other node has published a key")
	case len(silent) == 0:
		return condition(v1alpha1.ConditionPeersConnected, true, reasonConnected, "all %d peers have a good handshake", expected)
	}
	var named []string
	for _, s := range silent[:min(len(silent), maxNamed)] {
		named = append(named, fmt.Sprintf("%s (%s)", s.node, s.why))
	}
	more := ""
	if n := len(silent) - maxNamed; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	return condition(v1alpha1.ConditionPeersConnected, false, reasonPeersSilent, "%d of %d peers have no good handshake: %s%s",
		len(silent), expected, strings.Join(named, ", "), more)
}

// summary is true while the mesh is in force and somebody answers: one node that is down must not
// make every other one unready.
func summary(ready, peers metav1.Condition, count v1alpha1.PeerSummary) metav1.Condition {
	switch {
	case ready.Status != metav1.ConditionTrue:
		return condition(v1alpha1.ConditionReady, false, ready.Reason, "%s", ready.Message)
	case count.Expected > 0 && count.Connected == 0:
		return condition(v1alpha1.ConditionReady, false, reasonNoneAnswers, "%s", peers.Message)
	default:
		return condition(v1alpha1.ConditionReady, true, reasonInForce, "the mesh is in force; %d of %d peers are connected", count.Connected, count.Expected)
	}
}
