package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

func TestHealthCheck(t *testing.T) {
	check := func(o *object) { o.HealthCheckNodePort = 32000 }
	for name, row := range map[string]struct {
		object object
		want   int
	}{
		"one here":            {web(check, loadBalancer, externalLocal), 1},
		"none here":           {web(check, remoteOnly()), 0},
		"terminating":         {web(check, endpoints(terminating(at("10.244.1.5", "node1")))), 0},
		"two, with two ports": {web(check, endpoints(at("10.244.1.5", "node1"), at("10.244.1.6", "node1")), twoPorts), 2},
	} {
		if got := row.object.wanted().HealthCheck; got == nil || got.Port != 32000 || got.LocalReady != row.want {
			t.Errorf("%s: %+v, want %d", name, got, row.want)
		}
	}
	if got := web().wanted().HealthCheck; got != nil {
		t.Errorf("a health check that nobody asked for: %+v", got)
	}
}

func twoPorts(o *object) {
	o.Ports = append(o.Ports, snapshot.ServicePort{Name: "https", Protocol: state.ProtoTCP, Port: 443, NodePort: 30443})
	for i := range o.slices {
		o.slices[i].Ports = append(o.slices[i].Ports, snapshot.EndpointPort{Name: "https", Protocol: state.ProtoTCP, Port: 8443})
	}
}

// TestManyFrontends: also where there are so many that they are not looked through one by one, an address that is listed twice is one
// frontend, the load balancer's, and a ClusterIP's stays that.
func TestManyFrontends(t *testing.T) {
	const many = 40
	w := web(func(o *object) {
		for i := range many {
			o.ExternalIPs = append(o.ExternalIPs, addr(fmt.Sprintf("192.0.2.%d", i)))
		}
		o.LoadBalancerIPs = append(addrs("10.96.0.10"), o.ExternalIPs...)
	}).wanted()
	kinds := map[state.FrontendKind]int{}
	for i, f := range w.Frontends {
		kinds[f.Kind]++
		if i > 0 && w.Frontends[i-1].Compare(f.FrontendKey) >= 0 {
			t.Errorf("%s comes before %s", w.Frontends[i-1].FrontendKey, f.FrontendKey)
		}
	}
	if kinds[state.FrontendClusterIP] != 2 || kinds[state.FrontendLoadBalancer] != many || len(w.Frontends) != many+2 {
		t.Errorf("frontends by kind: %v", kinds)
	}
	if len(w.Problems) != 1 || !strings.Contains(w.Problems[0].Text, "10.96.0.10:80/tcp is listed twice") {
		t.Errorf("problems: %v", w.Problems)
	}
}

// TestProblems: what cannot be done is told, and the rest is done.
func TestProblems(t *testing.T) {
	for want, change := range map[string]func(*object){
		`spec.externalIPs: "1.2.3" is neither`:  func(o *object) { o.Unreadable = []string{`spec.externalIPs: "1.2.3"`} },
		"spec.externalIPs: 127.0.0.1 cannot be": func(o *object) { o.ExternalIPs = addrs("127.0.0.1") },
		"2001:db8::1 is of a family":            func(o *object) { o.ExternalIPs, o.ClusterIPs = addrs("2001:db8::1"), o.ClusterIPs[:1] },
		"48h0m0s is longer than a day":          affinity(48 * time.Hour),
		`port "odd": 0 of protocol 6 cannot`: func(o *object) {
			o.Ports = append(o.Ports, snapshot.ServicePort{Name: "odd", Protocol: state.ProtoTCP})
		},
		`port "odd": 7 of protocol 1 cannot`:                      func(o *object) { o.Ports = append(o.Ports, snapshot.ServicePort{Name: "odd", Protocol: 1, Port: 7}) },
		"10.96.0.10:80/tcp is listed twice: as clusterIP of port": func(o *object) { o.ExternalIPs = addrs("10.96.0.10") },
	} {
		w := web(change).wanted()
		if len(w.Problems) == 0 || !strings.Contains(w.Problems[0].Text, want) || w.Problems[0].Service != w.Service {
			t.Errorf("problems %v, want %q", w.Problems, want)
		}
		if len(w.Frontends) == 0 || w.Frontends[0].Kind != state.FrontendClusterIP || len(w.Frontends[0].Inside.Endpoints) != 2 {
			t.Errorf("%s: the ClusterIP is gone: %v", want, w.Frontends)
		}
	}
	if p := web(nodePort, loadBalancer, externalIPs, affinity(time.Minute)).wanted().Problems; len(p) != 0 {
		t.Errorf("a good Service has problems: %v", p)
	}
}

// TestUnreadableRangesOpenNothing: nobody is let in where it is not known who should be.
func TestUnreadableRangesOpenNothing(t *testing.T) {
	o := web(loadBalancer, func(o *object) { o.Unreadable = []string{`spec.loadBalancerSourceRanges: "10.0.0/8"`} })
	journey{"outside", lbIP, 80, "dropped"}.check(t, state.ProtoTCP, o)
	journey{"pod", clusterIP, 80, "local, remote"}.check(t, state.ProtoTCP, o)
}

func TestHeadlessServicesHaveNothing(t *testing.T) {
	w := web(nodePort, externalIPs, func(o *object) { o.ClusterIPs = nil }).wanted()
	if len(w.Frontends)+len(w.Problems)+len(w.Sets()) != 0 {
		t.Errorf("%+v", w)
	}
}

// TestEndpointsThatNobodyMayReach would be the node's own loopback.
func TestEndpointsThatNobodyMayReach(t *testing.T) {
	w := web(endpoints(at("127.0.0.1", "node1"), at("10.244.2.5", "node2"))).wanted()
	if got := target(w.Frontends[0].Inside); got != "[10.244.2.5:8080]" {
		t.Errorf("endpoints %s", got)
	}
}

func TestSockets(t *testing.T) {
	get := func(o object) map[string]string {
		out := map[string]string{}
		for _, s := range o.wanted().Sockets() {
			if err := s.Validate(); err != nil {
				t.Error(err)
			}
			out[s.Address.String()] = s.String()
		}
		return out
	}
	got := get(web(nodePort, loadBalancer, externalLocal, affinity(time.Minute)))
	both := " -> 10.244.1.5:8080 10.244.2.5:8080 affinity 1m0s of prod/web:http"
	for _, at := range []string{"10.96.0.10:80", "10.200.0.11:30080", "198.51.100.10:80"} {
		if got[at] != at+both {
			t.Errorf("%s: %q", at, got[at])
		}
	}
	if got := get(web(endpoints())); got["10.96.0.10:80"] != "10.96.0.10:80 -> refused" {
		t.Errorf("without endpoints: %v", got)
	}
	if got := get(web(internalLocal, remoteOnly(), loadBalancer, ranges("10.0.0.0/8"))); len(got) != 1 {
		t.Errorf("what the rules decide by the packet, or what has no ranges: %v", got)
	}
	if got := get(web(udp)); len(got) != 0 {
		t.Errorf("UDP: %v", got)
	}
}

// TestNoLocal counts each port of each family that a policy leaves nothing here, as kube-proxy's metric does.
func TestNoLocal(t *testing.T) {
	four := func(o *object) { o.ClusterIPs = o.ClusterIPs[:1] }
	for name, row := range map[string]struct {
		object object
		want   service.NoLocal
	}{
		"internal":            {web(internalLocal, remoteOnly()), service.NoLocal{Internal: [2]int{1, 1}}},
		"external, two ports": {web(nodePort, externalLocal, remoteOnly(), twoPorts), service.NoLocal{External: [2]int{2, 2}}},
		"both, IPv4":          {web(internalLocal, externalLocal, loadBalancer, remoteOnly(), four), service.NoLocal{Internal: [2]int{1, 0}, External: [2]int{1, 0}}},
		"one here":            {web(internalLocal, externalLocal, loadBalancer), service.NoLocal{}},
		"one here that drains": {web(internalLocal, endpoints(terminating(at("10.244.1.5", "node1")), at("10.244.2.5", "node2"))),
			service.NoLocal{}},
		"none anywhere":    {web(internalLocal, endpoints()), service.NoLocal{}},
		"policies Cluster": {web(nodePort, remoteOnly()), service.NoLocal{}},
	} {
		if got := row.object.wanted().NoLocal; got != row.want {
			t.Errorf("%s: %+v, want %+v", name, got, row.want)
		}
	}
}

// TestAlive: UDP flows may go on to every endpoint that answers, wherever new ones go; of the other
// protocols nobody asks.
func TestAlive(t *testing.T) {
	notReady := func(e snapshot.Endpoint) snapshot.Endpoint { e.Ready, e.Serving = false, false; return e }
	published := func(e snapshot.Endpoint) snapshot.Endpoint { e.Serving = false; return e }
	four := endpoints(terminating(at("10.244.1.5", "node1")), at("10.244.2.5", "node2"), published(at("10.244.2.6", "node2")),
		notReady(at("10.244.2.7", "node2")), notReady(terminating(at("10.244.2.8", "node2"))))
	want := "[10.244.1.5:8080 10.244.2.5:8080 10.244.2.6:8080]"
	for _, policy := range []func(*object){func(*object) {}, internalLocal, externalLocal} {
		for _, f := range web(four, udp, nodePort, policy, func(o *object) { o.ClusterIPs = o.ClusterIPs[:1] }).wanted().Frontends {
			if got := fmt.Sprint(f.Alive); got != want && f.Addr.Is4() {
				t.Errorf("%s: alive are %s, want %s", f.FrontendKey, got, want)
			}
		}
	}
	for _, f := range web(four).wanted().Frontends {
		if f.Alive != nil {
			t.Errorf("%s: %v", f.FrontendKey, f.Alive)
		}
	}
}

// TestOrderOfSlicesDoesNotMatter, nor does that of endpoints.
func TestOrderOfSlicesDoesNotMatter(t *testing.T) {
	o := web(endpoints(at("10.244.1.5", "node1"), at("10.244.2.5", "node2"), at("10.244.3.5", "node3")))
	more := slice("web-0", []string{"http/tcp/8080"}, terminating(at("10.244.2.5", "node2")), at("10.244.1.7", "node1"))
	o.slices = append(o.slices, more)
	want := o.wanted()
	slices.Reverse(o.slices)
	for i := range o.slices {
		o.slices[i].Endpoints = slices.Clone(o.slices[i].Endpoints)
		slices.Reverse(o.slices[i].Endpoints)
	}
	if got := o.wanted(); !slices.EqualFunc(got.Frontends, want.Frontends, state.Frontend.Equal) || !slices.Equal(got.Local, want.Local) {
		t.Errorf("%v, want %v", got.Frontends, want.Frontends)
	}
	if got := target(want.Frontends[0].Inside); got != "[10.244.1.5:8080 10.244.1.7:8080 10.244.2.5:8080 10.244.3.5:8080]" {
		t.Errorf("endpoints %s", got)
	}
}
