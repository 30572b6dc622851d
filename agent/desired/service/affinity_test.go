package service_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

// client connects again and again from one address, with every number drawn once.
type client struct {
	t    *testing.T
	m    *nfsim.Machine
	name string
	link string // another one than the name's
	from string
	to   netip.AddrPort
	n    uint32
}

// connect gives the endpoint of a new connection. Each draws another slot than the one before.
func (c *client) connect() netip.Addr {
	c.t.Helper()
	c.n++
	draw := c.n
	c.m.Random = func(n uint32) uint32 { return draw * 7 % n }
	from := port(c.from, uint16(4000+c.n))
	r := nfsim.Result{}
	if c.link != "" {
		r = c.m.Receive(nfsim.Packet{Proto: state.ProtoTCP, Src: from, Dst: c.to, IIF: c.link})
	} else {
		r = send(c.m, state.ProtoTCP, c.name, from, c.to)
	}
	if r.Fate != nfsim.Left {
		c.t.Fatalf("%s to %s: %s", c.from, c.to, r)
	}
	return r.Packet.Dst.Addr()
}

// stays wants the next connections to be with one endpoint.
func (c *client) stays(endpoint netip.Addr) {
	c.t.Helper()
	for range 20 {
		if got := c.connect(); got != endpoint {
			c.t.Fatalf("%s is with %s, and had been with %s", c.from, got, endpoint)
		}
	}
}

// TestAffinity follows clients through time and through changes of endpoints, on every kind of
// frontend.
func TestAffinity(t *testing.T) {
	sticky := func(four ...string) object {
		o := web(affinity(time.Minute), nodePort, loadBalancer, externalLocal)
		o.slices = nil
		for i := range 2 {
			s := slice("web", []string{"http/tcp/8080"})
			for _, host := range four {
				s.Endpoints = append(s.Endpoints, at([]string{"10.244.1.", "fd00:10:244:1::"}[i]+host, "node1"))
			}
			o.slices = append(o.slices, s)
		}
		return o
	}
	all := sticky("21", "22", "23", "24")
	for name, to := range map[string]struct {
		who, link pair
		at        pair
		port      uint16
		client    string
	}{
		"cluster IP":    {at: clusterIP, port: 80, client: "pod", who: otherPod},
		"node port":     {at: nodeAddr, port: 30080, client: "outside", who: outsider},
		"load balancer": {at: lbIP, port: 80, client: "outside", who: outsider},
		"from within":   {at: lbIP, port: 80, client: "pod", who: otherPod},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 2 {
				m := machine(all.wanted())
				c := &client{t: t, m: m, name: to.client, from: to.who[i], to: port(to.at[i], to.port)}
				first := c.connect()
				c.stays(first)
				m.Advance(50 * time.Second)
				c.stays(first) // and begins anew with every connection
				m.Advance(50 * time.Second)
				c.stays(first)
				c.mustMove(first, func() { m.Advance(2 * time.Minute) })

				// One that goes leaves its clients to another, and the clients of the others alone.
				second := c.connect()
				rest := without([]string{"21", "22", "23", "24"}, second)
				m.Load(meshTable(), tableWith(sticky(rest...).wanted()))
				third := c.connect()
				if third == second {
					t.Fatalf("%s is with %s, which is gone", c.from, third)
				}
				c.stays(third)
				m.Load(meshTable(), tableWith(all.wanted()))
				c.stays(third)
				m.Load(meshTable(), tableWith(sticky(rest...).wanted()))
				c.stays(third)
			}
		})
	}
}

// mustMove wants a client to come to another endpoint, if time passes often enough.
func (c *client) mustMove(from netip.Addr, pass func()) {
	c.t.Helper()
	for range 50 {
		pass()
		if c.connect() != from {
			return
		}
	}
	c.t.Fatalf("%s is with %s for ever", c.from, from)
}

func without(hosts []string, a netip.Addr) []string {
	var out []string
	for _, h := range hosts {
		if a != addr("10.244.1."+h) && a != addr("fd00:10:244:1::"+h) {
			out = append(out, h)
		}
	}
	return out
}

// TestClientsOfOneAddressAreApart: affinity is by client and frontend.
func TestClientsOfOneAddressAreApart(t *testing.T) {
	o := web(affinity(time.Minute))
	m := machine(o.wanted())
	met := map[netip.Addr]bool{}
	for _, host := range []string{"10.244.1.30", "10.244.1.31", "10.244.1.32", "10.244.1.33", "10.244.1.34", "10.244.1.35"} {
		c := &client{t: t, m: m, link: "weftp-" + host[len(host)-2:], from: host, to: port(clusterIP[0], 80), n: uint32(len(met)) + uint32(host[len(host)-1])}
		first := c.connect()
		met[first] = true
		c.stays(first)
	}
	if len(met) != 2 {
		t.Errorf("six clients met %d endpoints of 2", len(met))
	}
}

// TestRangesLetTheVIPIn: a node that has a load balancer's address itself sends from it.
func TestRangesLetTheVIPIn(t *testing.T) {
	for allowed, want := range map[string]nfsim.Fate{"10.200.0.0/24": nfsim.Left, "203.0.113.0/24": nfsim.Dropped} {
		m := machine(web(loadBalancer, remoteOnly(), ranges(allowed)).wanted())
		m.Local = append(m.Local, addr(lbIP[0]))
		if r := send(m, state.ProtoTCP, "node", port(lbIP[0], 4000), port(lbIP[0], 80)); r.Fate != want {
			t.Errorf("ranges %s: %s, want %s", allowed, r, want)
		}
	}
}
