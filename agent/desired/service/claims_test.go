package service_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

func named(name string, created int64, change ...func(*object)) service.Wanted {
	o := web(change...)
	o.Name, o.Created = name, time.Unix(created, 0)
	o.ClusterIPs = addrs("10.96.1."+name[1:], "fd00:96::1:"+name[1:])
	o.ExternalIPs, o.LoadBalancerIPs = onlyIPv4(o.ExternalIPs), onlyIPv4(o.LoadBalancerIPs)
	return o.wanted()
}

func onlyIPv4(in []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(in), netip.Addr.Is6)
}

func TestWhoHasAFrontend(t *testing.T) {
	key := state.FrontendKey{Addr: addr("192.0.2.10"), Proto: state.ProtoTCP, Port: 80}
	has := func(c *service.Claims, w service.Wanted) bool {
		w = c.Settle(w)
		return slices.ContainsFunc(w.Frontends, func(f state.Frontend) bool { return f.FrontendKey == key })
	}
	old, young := named("s1", 1, externalIPs), named("s2", 2, externalIPs)
	c := service.NewClaims()
	if got := c.Set(young); got != nil || !has(c, young) {
		t.Errorf("the only one does not have it; changed %v", got)
	}
	if got := c.Set(old); !slices.Equal(got, []snapshot.ServiceName{young.Service}) || !has(c, old) || has(c, young) {
		t.Errorf("the older one does not have it; changed %v", got)
	}
	if got := c.Set(old); got != nil {
		t.Errorf("the same again changed %v", got)
	}
	p := c.Settle(young).Problems
	if len(p) != 1 || p[0].Reason != service.ReasonConflict || !strings.Contains(p[0].Text, "belongs to Service prod/s1") {
		t.Errorf("problems: %v", p)
	}
	balanced := named("s3", 3, loadBalancer, func(o *object) { o.LoadBalancerIPs = addrs("192.0.2.10") })
	if got := c.Set(balanced); len(got) != 2 || !has(c, balanced) || has(c, old) {
		t.Errorf("a load balancer's address is no more than an external one; changed %v", got)
	}
	if got := c.Delete(balanced.Service); len(got) != 2 || !has(c, old) {
		t.Errorf("what is free is not given back; changed %v", got)
	}
	if got := c.Set(named("s1", 1)); !slices.Equal(got, []snapshot.ServiceName{young.Service}) || !has(c, young) {
		t.Errorf("what is given up is not had by the next; changed %v", got)
	}
	if got := c.Delete(young.Service); got != nil {
		t.Errorf("the last one changed %v", got)
	}
}

// TestSequences takes Services through random changes, one at a time as the agent does, and compares
// with what one look at the end gives. No two Services may differ in an element of one key.
func TestSequences(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		claims := service.NewClaims()
		now := map[snapshot.ServiceName]service.Wanted{}
		written := map[snapshot.ServiceName]service.Wanted{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			o := drawService(rt, rapid.IntRange(0, len(poolClusterIPs)-1).Draw(rt, "service"))
			o.Namespace = "a"
			var others []snapshot.ServiceName
			if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
				others = claims.Delete(o.ServiceName)
				delete(now, o.ServiceName)
				delete(written, o.ServiceName)
			} else {
				now[o.ServiceName] = o.wanted()
				others = append(claims.Set(now[o.ServiceName]), o.ServiceName)
			}
			for _, name := range others {
				written[name] = claims.Settle(now[name])
			}
			compareWithOneLook(rt, now, written)
		}
	})
}

func compareWithOneLook(rt *rapid.T, now, written map[snapshot.ServiceName]service.Wanted) {
	fresh := service.NewClaims()
	for _, w := range now {
		fresh.Set(w)
	}
	all := map[string]state.Element{}
	for name, w := range now {
		want, have := fresh.Settle(w).Sets(), written[name].Sets()
		for set := range want {
			if !state.ElementsEqual(want[set], have[set]) {
				rt.Fatalf("%s has %v in %s, want %v", name, have[set], set, want[set])
			}
			for _, e := range want[set] {
				if before, ok := all[set+string(e.Key)]; ok && before != e {
					rt.Fatalf("two Services differ in %s: %v and %v", set, before, e)
				}
				all[set+string(e.Key)] = e
			}
		}
		if len(want) != len(have) {
			rt.Fatalf("%s has %d sets, want %d", name, len(have), len(want))
		}
	}
}
