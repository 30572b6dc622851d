package service

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/agent/snapshot"
)

func object(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "web", Name: name, CreationTimestamp: metav1.Unix(1700000000, 0), ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "large"}}}
}

// everything is a Service with all that a proxy looks at.
func everything() *corev1.Service {
	proxyMode, local := corev1.LoadBalancerIPModeProxy, corev1.ServiceInternalTrafficPolicyLocal
	return &corev1.Service{
		ObjectMeta: object("shop"),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00::7"},
			ExternalIPs: []string{"192.0.2.7", "junk"}, LoadBalancerSourceRanges: []string{" 10.0.0.0/8", "2001:db8::/32"},
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, InternalTrafficPolicy: &local, HealthCheckNodePort: 31000,
			SessionAffinity: corev1.ServiceAffinityClientIP, SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(60))}},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, TargetPort: intstr.FromString("web"), NodePort: 30080},
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053}, {Name: "sctp", Port: 9, Protocol: corev1.ProtocolSCTP},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "203.0.113.7"}, {IP: "203.0.113.8", IPMode: &proxyMode}, {Hostname: "lb.example"},
		}}},
	}
}

func TestServiceFrom(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	want := snapshot.Service{
		ServiceName: snapshot.ServiceName{Namespace: "web", Name: "shop"}, Created: time.Unix(1700000000, 0),
		ClusterIPs: addrs("10.96.0.7", "fd00::7"), ExternalIPs: addrs("192.0.2.7"), LoadBalancerIPs: addrs("203.0.113.7"),
		SourceRanges:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		ExternalLocal: true, InternalLocal: true, HealthCheckNodePort: 31000, Affinity: time.Minute,
		Ports: []snapshot.ServicePort{
			{Name: "http", Protocol: 6, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: 17, Port: 53, NodePort: 30053}, {Name: "sctp", Protocol: 132, Port: 9},
		},
		Unreadable: []string{`spec.externalIPs: "junk"`},
	}
	got, err := serviceFrom(everything())
	if err != nil || !got.Equal(want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	for name, change := range map[string]func(*corev1.Service){
		"headless":     func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
		"no address":   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
		"ExternalName": func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
	} {
		s := everything()
		change(s)
		if got, err := serviceFrom(s); got != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	s := everything()
	s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, nil
	if got, _ := serviceFrom(s); got.ExternalLocal || got.HealthCheckNodePort != 0 || len(got.LoadBalancerIPs) != 0 || got.Ports[0].NodePort != 0 || len(got.SourceRanges) != 0 {
		t.Errorf("of type ClusterIP: %+v", got)
	}
}

// TestFieldsOfLoadBalancers: a class is its controller's business, whose addresses are served as any; ipMode
// VIP is the default said aloud; without node ports there are none; and what an API server of old let
// through, ranges with blanks and addresses with leading zeros, means what it meant to kube-proxy.
func TestFieldsOfLoadBalancers(t *testing.T) {
	vip, proxyMode := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	for name, row := range map[string]struct {
		change func(*corev1.Service)
		want   func(*snapshot.Service)
	}{
		"of another's class": {func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") }, func(*snapshot.Service) {}},
		"VIP":                {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IPMode = &vip }, func(*snapshot.Service) {}},
		"Proxy": {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IPMode = &proxyMode },
			func(s *snapshot.Service) { s.LoadBalancerIPs = nil }},
		"without node ports": {func(s *corev1.Service) {
			s.Spec.AllocateLoadBalancerNodePorts = new(false)
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 0
			}
		}, func(s *snapshot.Service) {
			for i := range s.Ports {
				s.Ports[i].NodePort = 0
			}
		}},
		"no address yet": {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil }, func(s *snapshot.Service) { s.LoadBalancerIPs = nil }},
		"leading zeros": {func(s *corev1.Service) {
			s.Spec.ExternalIPs, s.Spec.LoadBalancerSourceRanges[0] = []string{"192.000.002.07", "junk"}, "010.0.0.0/8 "
		},
			func(*snapshot.Service) {}},
		"policy Cluster": {func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster },
			func(s *snapshot.Service) { s.ExternalLocal, s.HealthCheckNodePort = false, 0 }},
		"no affinity":      {func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityNone }, func(s *snapshot.Service) { s.Affinity = 0 }},
		"default affinity": {func(s *corev1.Service) { s.Spec.SessionAffinityConfig = nil }, func(s *snapshot.Service) { s.Affinity = 3 * time.Hour }},
	} {
		before, err := serviceFrom(everything())
		if err != nil {
			t.Fatal(err)
		}
		o := everything()
		row.change(o)
		got, err := serviceFrom(o)
		want := *before
		want.Ports = slices.Clone(before.Ports)
		if row.want(&want); err != nil || !got.Equal(want) {
			t.Errorf("%s: %+v, %v\nwant %+v", name, got, err, want)
		}
	}
}

// TestRangesOfServicesComeAndGo: the ranges of every ServiceCIDR count, whatever comes first, and a change
// of one is news.
func TestRangesOfServicesComeAndGo(t *testing.T) {
	s := newSource(Config{Node: "node1"})
	cidrs := &store[CIDR]{source: s, kind: "servicecidrs", convert: cidrFrom, put: s.putCIDR, remove: s.removeCIDR, replace: s.replaceCIDRs}
	object := func(name string, ranges ...string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
	}
	expect := func(what string, err error, news bool, want ...string) {
		t.Helper()
		var got []string
		for _, p := range s.CIDRs() {
			got = append(got, p.String())
		}
		slices.Sort(got)
		if c := s.Take(); err != nil || !slices.Equal(got, want) || c.Facts != news || len(c.Services) != 0 {
			t.Errorf("%s: ranges %v, %+v, %v; want %v, news %v", what, got, c, err, want, news)
		}
	}
	expect("the list", cidrs.Replace([]any{object("kubernetes", "10.96.0.0/16", "fd00:96::/112")}, "1"), true, "10.96.0.0/16", "fd00:96::/112")
	expect("one more", cidrs.Add(object("more", "10.97.0.0/16", "junk")), true, "10.96.0.0/16", "10.97.0.0/16", "fd00:96::/112")
	expect("the same again", cidrs.Update(object("more", "10.97.0.0/16")), false, "10.96.0.0/16", "10.97.0.0/16", "fd00:96::/112")
	expect("it goes", cidrs.Delete(object("more")), true, "10.96.0.0/16", "fd00:96::/112")
	expect("the list without the first", cidrs.Replace([]any{object("other", "10.98.0.0/16")}, "2"), true, "10.98.0.0/16")
}

func endpointSlice(name, service string, trigger time.Time, addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: object(name), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}, {Name: new("any")}},
	}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	if !trigger.IsZero() {
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: trigger.Format(time.RFC3339Nano)}
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func TestSliceFrom(t *testing.T) {
	o := endpointSlice("shop-1", "shop", time.Time{}, "10.0.0.1", "10.0.0.2", "junk")
	o.Endpoints[1].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	o.Endpoints[1].NodeName = new("node1")
	o.Endpoints[1].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}, ForNodes: []discoveryv1.ForNode{{Name: "node2"}}}
	got, err := sliceFrom(o)
	want := snapshot.EndpointSlice{
		Namespace: "web", Name: "shop-1", Service: "shop", Ports: []snapshot.EndpointPort{{Name: "http", Protocol: 6, Port: 8080}},
		Endpoints: []snapshot.Endpoint{
			{Addr: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true},
			{Addr: netip.MustParseAddr("10.0.0.2"), Node: "node1", Serving: true, Terminating: true, ZoneHints: []string{"a"}, NodeHints: []string{"node2"}},
		},
	}
	if err != nil || !got.Equal(want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	o.AddressType = discoveryv1.AddressTypeFQDN
	if got, err := sliceFrom(o); got != nil || err != nil {
		t.Errorf("of names: %+v, %v", got, err)
	}
}

// TestQueue follows what is queued for which Service.
func TestQueue(t *testing.T) {
	s := newSource(Config{Node: "node1"})
	s.started = time.Unix(1700000000, 0)
	later := s.started.Add(time.Second)
	services := &store[*snapshot.Service]{source: s, kind: "services", convert: serviceFrom, put: s.putService, remove: s.removeService, replace: s.replaceServices}
	slicesOf := &store[*slice]{source: s, kind: "endpointslices", convert: sliceFrom, put: s.putSlice, remove: s.removeSlice, replace: s.replaceSlices}
	nodes := &store[Node]{source: s, kind: "nodes", convert: nodeFrom, put: s.putNode, remove: s.removeNode, replace: s.replaceNodes}
	shop := snapshot.ServiceName{Namespace: "web", Name: "shop"}
	other := snapshot.ServiceName{Namespace: "web", Name: "other"}
	expect := func(what string, err error, triggers int, names ...snapshot.ServiceName) {
		t.Helper()
		c := s.Take()
		if err != nil || len(c.Services) != len(names) || len(c.Triggers[shop]) != triggers {
			t.Errorf("%s: %+v, %v; want %v and %d triggers", what, c, err, names, triggers)
		}
		for _, n := range names {
			if _, ok := c.Services[n]; !ok {
				t.Errorf("%s: %v is not queued", what, n)
			}
		}
	}
	expect("the list of Services", services.Replace([]any{everything()}, "1"), 0, shop)
	expect("the list of slices", slicesOf.Replace([]any{endpointSlice("shop-1", "shop", s.started, "10.0.0.1")}, "1"), 0, shop)
	if s.Synced() {
		t.Error("in sync without the Node")
	}
	expect("the Node", nodes.Replace([]any{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}}, "1"), 0)
	if !s.Synced() {
		t.Error("not in sync after every list")
	}
	if c := s.Take(); c.ServiceEvents != 0 {
		t.Errorf("%+v", c)
	}
	if err := errors.Join(services.Update(everything()), slicesOf.Update(endpointSlice("shop-1", "shop", s.started, "10.0.0.1"))); err != nil {
		t.Error(err)
	}
	if c := s.Take(); c.ServiceEvents != 1 || c.SliceEvents != 1 || c.ServiceChanges+c.SliceChanges+len(c.Services) != 0 {
		t.Errorf("the same again: %+v", c)
	}
	expect("the same Service", services.Update(everything()), 0)
	if err := slicesOf.Update(endpointSlice("shop-1", "shop", later, "10.0.0.1", "10.0.0.3")); err != nil || s.pending.SliceChanges != 1 || s.pending.ServiceChanges != 0 {
		t.Errorf("another endpoint: %+v, %v", s.pending, err)
	}
	s.Take()
	expect("a new endpoint", slicesOf.Update(endpointSlice("shop-1", "shop", later, "10.0.0.1", "10.0.0.2")), 1, shop)
	expect("a second slice", slicesOf.Add(endpointSlice("shop-0", "shop", later, "10.0.0.3")), 1, shop)
	if _, list, ok := s.Get(shop); !ok || len(list) != 2 || list[0].Name != "shop-0" {
		t.Errorf("slices are %+v", list)
	}
	expect("a slice changes its Service", slicesOf.Update(endpointSlice("shop-0", "other", later, "10.0.0.3")), 0, shop, other)
	expect("a slice goes", slicesOf.Delete(endpointSlice("shop-1", "shop", later)), 0, shop)
	gone := everything()
	gone.Spec.ClusterIP, gone.Spec.ClusterIPs = "None", []string{"None"}
	expect("a Service becomes headless", services.Update(gone), 0, shop)
	expect("the list of slices again, without the other's", slicesOf.Replace(nil, "9"), 0, other)
	if _, _, ok := s.Get(shop); ok || len(s.Names()) != 0 || len(s.slices.byName) != 0 || len(s.slices.byService) != 0 {
		t.Errorf("something is left: %+v", s.slices)
	}
}

// TestNode keeps the addresses of a Node that has none for a moment, and sees that it is about to go.
func TestNode(t *testing.T) {
	s := newSource(Config{Node: "node1"})
	nodes := &store[Node]{source: s, kind: "nodes", convert: nodeFrom, put: s.putNode, remove: s.removeNode, replace: s.replaceNodes}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "node1"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")}
	if err := nodes.Add(n); err != nil || !slices.Equal(s.Node().IPs, want) || s.Node().Zone != "a" || !s.Take().Facts {
		t.Errorf("node is %+v, %v", s.Node(), err)
	}
	bare := n.DeepCopy()
	bare.Status.Addresses = nil
	bare.Spec.Taints = []corev1.Taint{{Key: toBeDeleted}}
	if err := nodes.Update(bare); err != nil || !slices.Equal(s.Node().IPs, want) || !s.Node().Leaving {
		t.Errorf("node is %+v, %v", s.Node(), err)
	}
	if err := nodes.Delete(bare); err != nil || !slices.Equal(s.Node().IPs, want) {
		t.Errorf("node is %+v, %v", s.Node(), err)
	}
}

// TestFirstListIsConverted: what the reflector holds during the first list is small.
func TestFirstListIsConverted(t *testing.T) {
	st := &store[*snapshot.Service]{source: newSource(Config{}), kind: "services", convert: serviceFrom}
	got, err := st.Transformer()(everything())
	i, ok := got.(*item[*snapshot.Service])
	if err != nil || !ok || i.GetObjectMeta().GetName() != "shop" || i.GetObjectMeta().GetNamespace() != "web" {
		t.Errorf("%T, %v", got, err)
	}
	if again, err := st.Transformer()(got); again != got || err != nil {
		t.Error("what is converted is converted again")
	}
}
