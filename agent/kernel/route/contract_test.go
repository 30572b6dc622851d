//go:build linux

package route

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// host is a Table and what a test may do to it from outside.
type host struct {
	Table
	addForeign func(r state.Route)
	remove     func(routes []state.Route, rules []state.Rule)
}

func samples() map[string]Wanted {
	own4, own6 := netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")
	pair := Wanted{
		Routes: []state.Route{
			{Dst: pfx("10.244.2.0/24"), Dev: "weft0", Src: own4},
			{Dst: pfx("fd00:10:244:2::/64"), Dev: "weft0", Src: own6},
			{Dst: pfx("10.244.0.0/16"), Type: state.Unreachable, Metric: 9999},
			{Dst: pfx("fd00:10:244::/48"), Type: state.Unreachable, Metric: 9999},
			{Table: state.TableWeft, Dst: pfx("10.200.0.12/32"), Dev: "weft0"},
			{Table: state.TableWeft, Dst: pfx("fd00:c8::12/128"), Dev: "weft0"},
			{Dst: pfx("10.244.1.5/32"), Dev: "weft1"},
			{Dst: pfx("fd00:10:244:1::5/128"), Dev: "weft1"},
		},
		Rules: []state.Rule{
			{Priority: 8700, From: pfx("10.244.1.0/24"), Table: state.TableWeft},
			{Priority: 8700, From: pfx("fd00:10:244:1::/64"), Table: state.TableWeft},
		},
	}
	moved := Wanted{Routes: slices.Clone(pair.Routes), Rules: []state.Rule{
		{Priority: 8700, From: pfx("10.244.1.0/24"), Table: state.TableWeft},
		{Priority: 8701, To: pfx("fd00:10:244:9::/64"), IIF: "weft0", Table: state.TableMain},
		{Priority: 8799, Family: state.IPv4, Table: 1000},
		{Priority: 8799, Family: state.IPv6, Table: 1000},
	}}
	for i := range moved.Routes {
		if r := &moved.Routes[i]; r.Dev == "weft0" {
			r.Dev, r.MTU, r.AdvMSS = "weft1", 1280, 1200
		}
	}
	moved.Routes = append(moved.Routes, state.Route{Dst: pfx("192.0.2.0/24"), Dev: "weft0", Metric: 5, Table: 300})
	return map[string]Wanted{
		"nothing": {},
		"a peer":  pair,
		"moved":   moved,
		"through a gateway": {Routes: []state.Route{
			{Dst: pfx("198.51.100.0/24"), Dev: "weft0", Gateway: netip.MustParseAddr("10.244.1.254")},
			{Dst: pfx("2001:db8::/32"), Dev: "weft0", Gateway: netip.MustParseAddr("fd00:10:244:1::fe")},
		}},
		"default routes in a table": {Routes: []state.Route{
			{Dst: pfx("0.0.0.0/0"), Dev: "weft0", Table: 88},
			{Dst: pfx("::/0"), Dev: "weft0", Table: 88},
		}},
	}
}

// contract is what every Table does.
func contract(t *testing.T, open func(t *testing.T) host) {
	t.Run("each from each other", func(t *testing.T) {
		h, all := open(t), samples()
		var names []string
		for n := range all {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, from := range names {
			for _, to := range names {
				for _, name := range []string{from, to} {
					check(t, h, name, all[name])
				}
			}
		}
	})
	t.Run("changed route is replaced in place", func(t *testing.T) {
		h, all := open(t), samples()
		check(t, h, "a peer", all["a peer"])
		c, err := ensure(t.Context(), h, all["moved"])
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Delete) != 0 || len(c.Add) != 1 || len(c.Replace) != 4 {
			t.Errorf("change is\n%s\nwant one route added, four replaced, none deleted", c)
		}
	})
	t.Run("whatever is removed comes back", func(t *testing.T) {
		h, want := open(t), samples()["a peer"]
		check(t, h, "a peer", want)
		for _, r := range want.Routes {
			h.remove([]state.Route{r}, nil)
			if c := check(t, h, "a peer", want); len(c.Add) != 1 {
				t.Errorf("%s removed: change is %q", r, c)
			}
		}
		for _, r := range want.Rules {
			h.remove(nil, []state.Rule{r})
			if c := check(t, h, "a peer", want); len(c.AddRules) != 1 {
				t.Errorf("%s removed: change is %q", r, c)
			}
		}
	})
	adversity(t, open)
}

// adversity is what every Table does when not all goes well.
func adversity(t *testing.T, open func(t *testing.T) host) {
	t.Run("a stranger's route stays", func(t *testing.T) {
		h, want := open(t), samples()["a peer"]
		strangers := []state.Route{want.Routes[0], want.Routes[1], want.Routes[2], want.Routes[3]}
		for _, r := range strangers {
			r.Src = netip.Addr{}
			h.addForeign(r)
		}
		c, err := ensure(t.Context(), h, want)
		if !errors.Is(err, ErrConflict) {
			t.Errorf("error is %v, want a conflict", err)
		}
		if len(c.Conflicts) != len(strangers) || len(c.Add) != len(want.Routes)-len(strangers) {
			t.Errorf("%d conflicts, %d routes added\n%s", len(c.Conflicts), len(c.Add), c)
		}
		have, err := h.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		left := want
		left.Routes = want.Routes[len(strangers):]
		if d := Diff(have, left); !d.Empty() {
			t.Errorf("of the rest there is still %s", d)
		}
	})
	t.Run("missing link", func(t *testing.T) {
		h, want := open(t), samples()["a peer"]
		want.Routes = append(slices.Clone(want.Routes), state.Route{Dst: pfx("192.0.2.0/24"), Dev: "nowhere0"})
		if _, err := ensure(t.Context(), h, want); !errors.Is(err, unix.ENODEV) {
			t.Errorf("error is %v, want %v", err, unix.ENODEV)
		}
		check(t, h, "the rest", samples()["a peer"])
	})
	t.Run("deleting twice", func(t *testing.T) {
		h, want := open(t), samples()["a peer"]
		check(t, h, "a peer", want)
		for range 2 {
			if err := h.Apply(t.Context(), Change{Delete: want.Routes, DeleteRules: want.Rules}); err != nil {
				t.Error(err)
			}
		}
		check(t, h, "nothing", Wanted{})
	})
}

// check makes the wanted state and looks whether it is there, and whether it costs nothing again.
func check(t *testing.T, h host, name string, want Wanted) Change {
	t.Helper()
	c, err := ensure(t.Context(), h, want)
	if err != nil {
		t.Fatalf("to %q: %v", name, err)
	}
	have, err := h.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(have, want); !d.Empty() {
		t.Fatalf("to %q: there is still\n%s", name, d)
	}
	if !slices.Equal(have.Routes, state.SortRoutes(want.Routes)) || !slices.Equal(have.Rules, state.SortRules(want.Rules)) {
		t.Fatalf("to %q: have\n%v\n%v", name, have.Routes, have.Rules)
	}
	return c
}

func TestFakeContract(t *testing.T) {
	contract(t, func(*testing.T) host {
		f := NewFake("weft0", "weft1")
		return host{Table: f, addForeign: f.AddForeign, remove: f.Remove}
	})
}

// TestOrderDoesNotMatter shuffles the wanted and the observed.
func TestOrderDoesNotMatter(t *testing.T) {
	all := samples()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		have, want := all["a peer"], all["moved"]
		plain := Diff(Observed{Routes: have.Routes, Rules: have.Rules}, want).String()
		have = Wanted{Routes: slices.Clone(have.Routes), Rules: slices.Clone(have.Rules)}
		want = Wanted{Routes: slices.Clone(want.Routes), Rules: slices.Clone(want.Rules)}
		random.Shuffle(len(have.Routes), func(i, j int) { have.Routes[i], have.Routes[j] = have.Routes[j], have.Routes[i] })
		random.Shuffle(len(want.Routes), func(i, j int) { want.Routes[i], want.Routes[j] = want.Routes[j], want.Routes[i] })
		random.Shuffle(len(want.Rules), func(i, j int) { want.Rules[i], want.Rules[j] = want.Rules[j], want.Rules[i] })
		if got := Diff(Observed{Routes: have.Routes, Rules: have.Rules}, want).String(); got != plain {
			t.Fatalf("in another order the change is\n%s\nnot\n%s", got, plain)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, w := range map[string]Wanted{
		"priority":    {Rules: []state.Rule{{Priority: 100, Family: state.IPv4, Table: 87}}},
		"family":      {Rules: []state.Rule{{Priority: 8700, Table: 87}}},
		"destination": {Routes: []state.Route{{Dev: "weft0"}}},
		"device":      {Routes: []state.Route{{Dst: pfx("10.0.0.0/8")}}},
	} {
		if _, err := NewFake("weft0").Ensure(context.Background(), w); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
