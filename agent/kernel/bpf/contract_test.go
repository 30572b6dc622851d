//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func TestFakeKeepsTheContract(t *testing.T) {
	contract(t, func(*testing.T) Balancer { return NewFake() })
}

// contract is what every Balancer does.
func contract(t *testing.T, open func(t *testing.T) Balancer) {
	t.Run("nothing before the first Sync", func(t *testing.T) {
		b := open(t)
		if err := b.Set(context.Background(), Wanted{Owner: "a"}); !errors.Is(err, ErrNotSynced) {
			t.Errorf("Set: %v", err)
		}
		if _, err := b.Observe(context.Background()); !errors.Is(err, ErrNotSynced) {
			t.Errorf("Observe: %v", err)
		}
	})
	t.Run("a step at a time", func(t *testing.T) { steps(t, open(t)) })
	t.Run("a fault does not hold up the others", func(t *testing.T) {
		b := open(t)
		good := Wanted{Owner: "good", Frontends: []state.SocketFrontend{{Address: ap("192.0.2.1:80")}}}
		bad := Wanted{Owner: "bad", Frontends: []state.SocketFrontend{{Address: ap("192.0.2.2:0")}}}
		if err := b.Sync(context.Background(), []Wanted{bad, good}); err == nil {
			t.Error("no error for a frontend without a port")
		}
		holds(t, b, "[192.0.2.1:80 -> refused]")
		good.Frontends = []state.SocketFrontend{{Address: ap("192.0.2.3:80")}}
		if err := b.Set(context.Background(), bad, good); err == nil {
			t.Error("no error for a frontend without a port")
		}
		holds(t, b, "[192.0.2.3:80 -> refused]")
	})
	t.Run("random wishes", func(t *testing.T) { randomSteps(t, open(t)) })
}

func holds(t *testing.T, b Balancer, want string) {
	t.Helper()
	got, err := b.Observe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != want {
		t.Errorf("in force: %v\nwant:     %s", got, want)
	}
}

func steps(t *testing.T, b Balancer) {
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	one := Wanted{Owner: "one", Age: 2, Frontends: []state.SocketFrontend{
		{Address: ap("192.0.2.1:80"), Endpoints: aps("10.244.0.2:80", "10.244.0.1:80"), Affinity: time.Minute, Group: "one"},
		{Address: ap("[2001:db8::1]:80"), Endpoints: aps("[fd00::1]:80")},
	}}
	all := "[192.0.2.1:80 -> 10.244.0.1:80 10.244.0.2:80 affinity 1m0s of (nobody) [2001:db8::1]:80 -> [fd00::1]:80]"
	do(b.Sync(ctx, nil))
	holds(t, b, "[]")
	do(b.Set(ctx, one))
	holds(t, b, all)
	do(b.Set(ctx, one))
	do(b.Sync(ctx, []Wanted{one}))
	holds(t, b, all)
	// Who is younger waits for a frontend, who is older takes it.
	younger := Wanted{Owner: "two", Age: 3, Frontends: []state.SocketFrontend{{Address: ap("192.0.2.1:80")}}}
	do(b.Set(ctx, younger))
	holds(t, b, all)
	older := Wanted{Owner: "two", Age: 1, Frontends: []state.SocketFrontend{{Address: ap("192.0.2.1:80")}}}
	do(b.Set(ctx, older))
	holds(t, b, "[192.0.2.1:80 -> refused [2001:db8::1]:80 -> [fd00::1]:80]")
	do(b.Set(ctx, Wanted{Owner: "two"}))
	holds(t, b, all)
	one.Frontends = one.Frontends[1:2]
	do(b.Sync(ctx, []Wanted{younger, one}))
	holds(t, b, "[192.0.2.1:80 -> refused [2001:db8::1]:80 -> [fd00::1]:80]")
	do(b.Sync(ctx, nil))
	holds(t, b, "[]")
}

func randomSteps(t *testing.T, b Balancer) {
	r := rand.New(rand.NewPCG(7, 7))
	wishes := map[string]Wanted{}
	if err := b.Sync(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		w := randomWanted(r, string(rune('a'+r.IntN(4))))
		wishes[w.Owner] = w
		var err error
		if r.IntN(5) > 0 {
			err = b.Set(context.Background(), w)
		} else {
			var all []Wanted
			for _, w := range wishes {
				all = append(all, w)
			}
			err = b.Sync(context.Background(), all)
		}
		if err != nil {
			t.Fatal(err)
		}
		var want []state.SocketFrontend
		for _, f := range naive(wishes) {
			f.Group = ""
			want = append(want, f)
		}
		holds(t, b, fmt.Sprint(state.SortSocketFrontends(want)))
	}
}
