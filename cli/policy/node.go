package policy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	engine "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
)

// NodeView is what this node's kernel enforces and counts.
type NodeView struct {
	Pods  []NodePod  `json:"pods"`
	Sites []NodeSite `json:"sites"`
	// Revoked counts the packets of flows that were cut.
	Revoked uint64 `json:"revokedPackets"`
}

// NodePod is a Pod of the node.
type NodePod struct {
	Pod       string       `json:"pod,omitempty"`
	Link      string       `json:"link"`
	Addresses []netip.Addr `json:"addresses"`
	Ingress   NodeChains   `json:"ingress"`
	Egress    NodeChains   `json:"egress"`
}

// NodeChains judge one direction; without any, everything passes.
type NodeChains struct {
	Chains []string `json:"chains,omitempty"`
	// Policies are those that the chains' rules come from.
	Policies []string `json:"policies,omitempty"`
	Denied   uint64   `json:"deniedPackets"`
}

// NodeSite is a place in the rules that denies.
type NodeSite struct {
	ID      string `json:"id"`
	Because string `json:"because"`
	Audit   bool   `json:"audit,omitempty"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// kernelView is what was read of the kernel.
type kernelView struct {
	links    []pod.Found
	ways     map[engine.Direction][]state.Element
	denied   map[engine.Direction]map[state.Value]nft.Counter
	counters map[string]nft.Counter
	comments map[string][]string
}

// LookAtNode reads the policy table of this node's kernel. names gives the Pod with an address, as far
// as is known.
func LookAtNode(ctx context.Context, procSysNet string, names map[netip.Addr]string) (NodeView, error) {
	table, err := nft.NewTable(engine.TableName)
	if err != nil {
		return NodeView{}, err
	}
	defer func() { _ = table.Close() }()
	pods, err := pod.New(pod.Config{ProcSysNet: procSysNet})
	if err != nil {
		return NodeView{}, err
	}
	defer func() { _ = pods.Close() }()
	k := kernelView{ways: map[engine.Direction][]state.Element{}, denied: map[engine.Direction]map[state.Value]nft.Counter{}}
	if k.links, err = pods.Observe(); err != nil {
		return NodeView{}, err
	}
	for d, set := range map[engine.Direction]string{engine.Ingress: engine.SetDeniedIn, engine.Egress: engine.SetDeniedOut} {
		if k.ways[d], err = table.Elements(ctx, d.String()); err != nil {
			return NodeView{}, err
		}
		if k.denied[d], err = table.ElementCounters(ctx, set); err != nil {
			return NodeView{}, err
		}
	}
	if k.counters, err = table.Counters(ctx); err != nil {
		return NodeView{}, err
	}
	if k.comments, err = table.Comments(ctx); err != nil {
		return NodeView{}, err
	}
	return k.view(names), nil
}

// view is pure.
func (k kernelView) view(names map[netip.Addr]string) NodeView {
	out := NodeView{Revoked: k.counters[engine.CounterRevoked].Packets}
	for _, l := range k.links {
		p := NodePod{Link: l.HostLink, Addresses: l.Addresses, Ingress: k.chains(engine.Ingress, l.HostLink), Egress: k.chains(engine.Egress, l.HostLink)}
		for _, a := range l.Addresses {
			p.Pod = cmp.Or(p.Pod, names[a])
		}
		out.Pods = append(out.Pods, p)
	}
	slices.SortFunc(out.Pods, func(a, b NodePod) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Link, b.Link)) })
	for name, c := range k.counters {
		kind, id, ok := strings.Cut(name, "-")
		if !ok || kind != "deny" && kind != "audit" {
			continue
		}
		out.Sites = append(out.Sites, NodeSite{ID: id, Because: k.because(name), Audit: kind == "audit", Packets: c.Packets, Bytes: c.Bytes})
	}
	slices.SortFunc(out.Sites, func(a, b NodeSite) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Because, b.Because), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (k kernelView) chains(d engine.Direction, link string) NodeChains {
	name := state.IfNameValue(link)
	out := NodeChains{Denied: k.denied[d][name].Packets}
	for _, el := range k.ways[d] {
		if !strings.HasPrefix(string(el.Key), string(name)) {
			continue
		}
		out.Chains = append(out.Chains, el.Verdict.Chain)
		for _, c := range k.comments[el.Verdict.Chain] {
			policy, _, _ := strings.Cut(c, " ")
			if !slices.Contains(out.Policies, policy) {
				out.Policies = append(out.Policies, policy)
			}
		}
	}
	slices.Sort(out.Policies)
	return out
}

// because is the comment in the chain of a counter: the tier and the policies that deny.
func (k kernelView) because(counter string) string {
	for chain, comments := range k.comments {
		if strings.HasPrefix(chain, counter) && len(comments) > 0 {
			return comments[0]
		}
	}
	return ""
}

// Write writes the view for people, only the Pod of that name where one is given.
func (v NodeView) Write(w io.Writer, only string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tINTERFACE\tDIRECTION\tCHAINS\tPOLICIES\tDENIED PACKETS")
	found := false
	for _, p := range v.Pods {
		name := p.Pod
		if name == "" {
			name = addressText(p.Addresses)
		}
		if only != "" && p.Pod != only && name != only {
			continue
		}
		found = true
		for _, d := range []struct {
			name string
			NodeChains
		}{{"ingress", p.Ingress}, {"egress", p.Egress}} {
			chains := strings.Join(d.Chains, ",")
			if chains == "" {
				chains = "none: everything passes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", name, p.Link, d.name, chains, cmp.Or(strings.Join(d.Policies, ","), "-"), d.Denied)
		}
	}
	if only != "" && !found {
		return fmt.Errorf("there is no pod %s on this node", only)
	}
	fmt.Fprintln(t, "\nDENIED BECAUSE OF\tAUDIT\tPACKETS\tBYTES\tSITE")
	for _, s := range v.Sites {
		fmt.Fprintf(t, "%s\t%t\t%d\t%d\t%s\n", s.Because, s.Audit, s.Packets, s.Bytes, s.ID)
	}
	fmt.Fprintf(t, "flows that were cut\t\t%d\n", v.Revoked)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func addressText(addrs []netip.Addr) string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return strings.Join(out, ",")
}
