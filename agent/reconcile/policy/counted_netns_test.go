//go:build linux && netns

package policy

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// Meter is what the agent shows of the loop.
type Meter interface {
	Recorder() Recorder
	Watch(l *Loop, d Denied)
	Read(t *testing.T) map[string]float64
}

// MetricsOnTheKernel compares every number with what was done: policies made, Pods selected, packets that the
// kernel denied, flows that were cut.
func MetricsOnTheKernel(t *testing.T, m Meter) {
	l := newLab(t)
	l.recorder = m.Recorder()
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	unknown := l.makePod("prod", "unknown", 12)
	l.cluster.setPods(server.Pod, client.Pod)
	to := func(name string, rules ...snapshot.NetworkPolicyRule) snapshot.NetworkPolicy {
		return snapshot.NetworkPolicy{Namespace: "prod", Name: name, Types: []string{"Ingress"}, PodSelector: snapshot.Selector{MatchLabels: server.Labels}, Ingress: rules}
	}
	l.cluster.setPolicy(to("echo", allowPorts(firstPort, firstPort+ports-1)))
	l.cluster.setPolicy(to("wrong", snapshot.NetworkPolicyRule{Peers: []snapshot.NetworkPolicyPeer{{IPBlock: &snapshot.IPBlock{CIDR: "nonsense"}}}}))
	l.start()
	m.Watch(l.loop, l.denied())
	if got := m.Read(t)["weftnet_policy_ready"]; got != 0 {
		t.Errorf("before everything is read weftnet_policy_ready is %v", got)
	}
	l.cluster.setMissing()
	for _, p := range []labPod{server, client, unknown} {
		l.add(p)
	}
	l.echo(server)
	kept := l.dial(client, "udp", netip.AddrPortFrom(server.IPs[0], firstPort))
	for _, c := range []net.Conn{kept, l.dial(client, "udp", netip.AddrPortFrom(server.IPs[0], firstPort+50)), l.dial(client, "udp", netip.AddrPortFrom(server.IPs[1], firstPort+50))} {
		if err := answers(c, live); err != nil {
			t.Fatal(err)
		}
	}
	const denials = 7 // datagrams, so that nobody sends again
	for i := range denials {
		c := l.dial(client, "udp", netip.AddrPortFrom(server.IPs[i%2], 9))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	l.eventually("denied packets", func() bool { return l.packets() >= denials })
	programmed := m.Read(t)["weftnet_policy_programming_duration_seconds_count"]
	l.cluster.setPolicy(to("echo", allowPorts(firstPort, firstPort+40)))
	l.eventually("flows to be cut", func() bool { return m.Read(t)["weftnet_policy_flows_cut_total"] >= 2 })
	var table int
	l.loop.Ask(func(e *desired.Engine) {
		for _, s := range e.Table().Sets {
			table += len(s.Elements)
		}
	})
	got := m.Read(t)
	for name, want := range map[string]float64{
		"weftnet_policy_ready": 1, `weftnet_policies{kind="NetworkPolicy"}`: 2, `weftnet_policies{kind="ClusterNetworkPolicy"}`: 0,
		"weftnet_policy_known_pods": 2, "weftnet_policy_local_pods": 3, "weftnet_policy_closed_pods": 0, "weftnet_policy_selected_pods": 2, // the one that nobody knows yet may be, too
		"weftnet_policy_elements":                       float64(table),
		`weftnet_policy_problems{kind="NetworkPolicy"}`: 1, "weftnet_policy_flows_cut_total": 2, "weftnet_policy_admission_duration_seconds_count": 3,
		"weftnet_policy_admitted_unknown_total":                                                     1,
		`weftnet_policy_denied_packets_total{direction="ingress",namespace="prod",pod="server-10"}`: denials,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if took := got["weftnet_policy_programming_duration_seconds_sum"]; got["weftnet_policy_programming_duration_seconds_count"] <= programmed || took <= 0 || took > 60 {
		t.Errorf("the change is not among the %v that took %v s", got["weftnet_policy_programming_duration_seconds_count"], took)
	}
	var sites float64
	for name, n := range got {
		if strings.HasPrefix(name, "weftnet_policy_site_packets_total{") && strings.Contains(name, `tier="NetworkPolicy"`) {
			sites += n
		}
	}
	if sites != denials {
		t.Errorf("places in the rules count %v packets, want %d", sites, denials)
	}
	if err := answers(kept, live); err != nil {
		t.Errorf("a flow that is allowed was cut: %v", err)
	}
}
