//go:build linux && netns

package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// eventually polls until the condition holds.
func (l *lab) eventually(what string, holds func() bool) {
	l.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			r, _ := l.loop.Report()
			l.Fatalf("waited for %s; report %+v, counts %+v\n%s", what, r, l.counts, l.run(l.node, "nft list table inet weftnet-policy"))
		}
	}
}

func denyIn(namespace string) snapshot.NetworkPolicy {
	return snapshot.NetworkPolicy{Namespace: namespace, Name: "deny-all", Types: []string{"Ingress"}}
}

// TestNoPacketBeforeThePolicy adds Pods under a default-deny policy while another Pod of the node and
// one of another node send to their addresses without pause: not one packet is delivered, whether
// their objects are known when they are added or not. The same packets arrive where no policy is, and
// once a policy allows them.
func TestNoPacketBeforeThePolicy(t *testing.T) {
	l := newLab(t)
	const count = 20
	sender := l.makePod("peers", "sender", 250)
	free := l.makePod("free", "open", 249)
	var pods []labPod
	to := append([]netip.Addr(nil), free.IPs...)
	for i := range count {
		p := l.makePod("prod", "web", i+10)
		pods = append(pods, p)
		to = append(to, p.IPs...)
	}
	l.cluster.setPods(sender.Pod, free.Pod)
	l.cluster.setPolicy(denyIn("prod"))
	l.cluster.setMissing()
	l.start()
	l.add(sender)
	stopLocal, stopRemote := l.flood(sender.ns, to), l.flood(l.remote, to)
	l.add(free)
	for i, p := range pods {
		if i%2 == 0 {
			l.cluster.setPods(p.Pod)
		}
		l.add(p)
	}
	for i, p := range pods {
		if i%2 == 1 {
			l.cluster.setPods(p.Pod)
		}
	}
	l.eventually("packets where no policy is", func() bool { return l.delivered(free) > 1000 })
	for _, p := range pods {
		if n := l.delivered(p); n != 0 {
			t.Errorf("%d packets reached %s", n, p.Name)
		}
	}
	allow := denyIn("prod")
	allow.Name, allow.Ingress = "allow-all", []snapshot.NetworkPolicyRule{{}}
	l.cluster.setPolicy(allow)
	for _, p := range pods {
		l.eventually("packets once they are allowed", func() bool { return l.delivered(p) > 0 })
	}
	stopLocal()
	stopRemote()
}
