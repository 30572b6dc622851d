//go:build netns

package policy

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	engine "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// nodeOfTwo is a node with the Pods shop/web-0, which nothing selects, and shop/db-0, which two policies do, one of
// them in audit mode. It gives web's namespace.
func nodeOfTwo(t *testing.T, node *nstest.Namespace) *nstest.Namespace {
	t.Helper()
	e := engine.New(engine.Options{})
	e.SetSelf(engine.Self{Name: "n1"})
	e.SetNamespace(snapshot.Namespace{Name: "shop"})
	db := snapshot.Selector{MatchLabels: labels("app", "db")}
	e.SetNetworkPolicy(snapshot.NetworkPolicy{Namespace: "shop", Name: "db", Types: []string{"Ingress"}, PodSelector: db,
		Ingress: []snapshot.NetworkPolicyRule{{Ports: []snapshot.NetworkPolicyPort{{Protocol: "TCP", Number: 5432}}}}})
	e.SetClusterNetworkPolicy(snapshot.ClusterNetworkPolicy{Name: "trial", Tier: "Admin", Audit: true,
		Subject: snapshot.PodPeer{Pods: &snapshot.NamespacedPods{Pods: db}},
		Ingress: []snapshot.ClusterNetworkPolicyRule{{Action: "Deny", Peers: []snapshot.ClusterNetworkPolicyPeer{{}}}}})
	spaces := map[string]*nstest.Namespace{}
	for name, ips := range map[string][]netip.Addr{"web": addrs("10.0.0.1", "fd00::1"), "db": addrs("10.0.0.2", "fd00::2")} {
		p := snapshot.Pod{Namespace: "shop", Name: name + "-0", UID: name, Labels: labels("app", name), IPs: ips, Node: "n1"}
		link := state.PodLinkName(p.UID, "eth0")
		e.SetPod(p)
		e.Attach(engine.Endpoint{Link: link, Pod: p.Key(), UID: p.UID, IPs: ips})
		spaces[name] = nstest.New(t)
		node.Do(t, func() {
			k, err := pod.New(pod.Config{})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = k.Close() }()
			if _, err := k.Attach(pod.Spec{HostLink: link, IfName: "eth0", Netns: spaces[name].Fd(), Addresses: ips, MTU: 1420}); err != nil {
				t.Error(err)
			}
		})
	}
	node.Do(t, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
				t.Error(err)
			}
		}
		table, err := nft.NewTable(engine.TableName)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = table.Close() }()
		if _, err := table.Ensure(t.Context(), e.Table()); err != nil {
			t.Error(err)
		}
	})
	return spaces["web"]
}

// TestLookAtNode : what the kernel enforces and has counted, of packets that it really denied.
func TestLookAtNode(t *testing.T) {
	node := nstest.New(t)
	web := nodeOfTwo(t, node)
	look := func() (v NodeView) {
		t.Helper()
		names := map[netip.Addr]string{netip.MustParseAddr("10.0.0.2"): "shop/db-0", netip.MustParseAddr("fd00::1"): "shop/web-0"}
		node.Do(t, func() {
			var err error
			if v, err = LookAtNode(t.Context(), "/proc/sys/net", names); err != nil {
				t.Error(err)
			}
		})
		return v
	}
	web.Do(t, func() {
		for i, to := range []string{"10.0.0.2:53", "10.0.0.2:53", "[fd00::2]:53"} {
			c, err := net.Dial("udp", to)
			if err == nil {
				_, err = c.Write([]byte("x"))
				_ = c.Close()
			}
			if err != nil {
				t.Errorf("packet %d: %v", i, err)
			}
		}
	})
	v := look()
	for deadline := time.Now().Add(10 * time.Second); (len(v.Pods) != 2 || v.Pods[0].Ingress.Denied < 3) && time.Now().Before(deadline); {
		v = look()
	}
	if len(v.Pods) != 2 || v.Pods[0].Pod != "shop/db-0" || v.Pods[1].Pod != "shop/web-0" {
		t.Fatalf("the Pods are %+v", v.Pods)
	}
	db, webPod := v.Pods[0], v.Pods[1]
	if len(db.Ingress.Chains) != 2 || db.Ingress.Denied != 3 || len(db.Egress.Chains) != 0 || db.Egress.Denied != 0 || len(webPod.Ingress.Chains) != 0 {
		t.Errorf("db is %+v, web %+v", db, webPod)
	}
	want := map[string]uint64{"NetworkPolicy shop/db false": 3, "Admin trial true": 3}
	for _, s := range v.Sites {
		key := s.Because + " false"
		if s.Audit {
			key = s.Because + " true"
		}
		if want[key] != s.Packets || s.Bytes == 0 {
			t.Errorf("%+v", s)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("nothing is said of %v", want)
	}
	if !slices.Contains(db.Ingress.Policies, "trial") {
		t.Errorf("the policies of db are %v", db.Ingress.Policies)
	}
	var text bytes.Buffer
	if err := v.Write(&text, "shop/db-0"); err != nil || !strings.Contains(text.String(), "NetworkPolicy shop/db") || strings.Contains(text.String(), "shop/web-0") {
		t.Errorf("error %v, text\n%s", err, &text)
	}
	if err := v.Write(&text, "shop/nobody"); err == nil {
		t.Error("a Pod that is not there is shown")
	}
}
