//go:build linux && netns

package bpf

import (
	"context"
	"os"
	"testing"
)

// noted is the number of sockets whose Service is known.
func noted(t *testing.T, k *Kernel) (n int) {
	t.Helper()
	var cookie uint64
	var value [2]address
	it := k.lasting[tableOrigins].Iterate()
	for it.Next(&cookie, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestASocketIsForgottenWhenItIsClosed(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	orders := []order{{To: service4}, {To: service6}, {To: mapped4, Six: true}, {To: service4, Again: servers4[1]}, {To: servers4[1], Again: service4}}
	for _, o := range orders {
		o.Keep = true
		if r := c.do(o); r.Errno != 0 {
			t.Fatalf("%s %s", r.Call, r.Errno)
		}
		if n := noted(t, k); n != 1 {
			t.Errorf("%+v: %d sockets are noted while one is open", o, n)
		}
		c.do(order{Kept: true})
		if n := noted(t, k); n != 0 {
			t.Errorf("%+v: %d sockets are noted when all are closed", o, n)
		}
	}
}

// An open socket tells its Service whatever happens to programs and agents meanwhile.
func TestAnOpenSocketKeepsThePeerItAskedFor(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	if r := c.do(order{To: service4, Keep: true}); r.Errno != 0 {
		t.Fatalf("%s %s", r.Call, r.Errno)
	}
	if err := k.renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	syncAll(t, p.open(t), want("v6", service6, servers6...))
	if r := c.do(order{Kept: true}); r.Errno != 0 || r.Peer != service4 {
		t.Errorf("%s %s, peer %s; want %s", r.Call, r.Errno, r.Peer, service4)
	}
}

func TestMoreSocketsThanCanBeNoted(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	origins := k.lasting[tableOrigins]
	var all elements[uint64, [2]address]
	for i := range uint64(origins.MaxEntries()) {
		all.add(1<<63+i, [2]address{})
	}
	if err := all.put(origins); err != nil {
		t.Fatal(err)
	}
	if r := c.do(order{To: service4}); r.Errno != 0 || r.Peer.String() != r.Server {
		t.Errorf("%s %s, peer %s, served by %s", r.Call, r.Errno, r.Peer, r.Server)
	}
	if s, err := k.Stats(); err != nil || s.Unnamed != 1 || s.Balanced != 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	if err := origins.Delete(uint64(1 << 63)); err != nil {
		t.Fatal(err)
	}
	if r := c.do(order{To: service4}); r.Errno != 0 || r.Peer != service4 {
		t.Errorf("with room again: %s %s, peer %s", r.Call, r.Errno, r.Peer)
	}
}

// While nobody watches sockets being closed, what is noted of them stays; it must not fill the table.
func TestWhatNobodySawClosedIsForgotten(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	detach(k.pin(release.program))
	if err := os.Remove(k.pin(release.program)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := c.do(order{To: service4}); r.Errno != 0 {
			t.Fatalf("%s %s", r.Call, r.Errno)
		}
	}
	if n := noted(t, k); n != 3 {
		t.Fatalf("%d sockets are noted, want the 3 that nobody saw closed", n)
	}
	if found, err := k.Check(context.Background()); found == nil || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	if n := noted(t, k); n != 0 {
		t.Errorf("%d sockets are noted, and none is open", n)
	}
}
