// Package contract is the table of what a link backend must do. One table runs on the fake, on this
// kernel with TUN links and on a kernel that has WireGuard.
package contract

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
)

// Backend is one implementation under test, in a namespace that has nothing but loopback.
type Backend struct {
	link.Interface
	// Kind of mesh links to test with.
	Kind state.LinkKind
	// Put makes a link as somebody else would: the wireguard process a TUN, a user a bridge.
	// Only name and kind count.
	Put func(t *testing.T, l state.Link)
	// Remove deletes a link as somebody else would.
	Remove func(t *testing.T, name string)
}

// Run checks a backend; each row gets a fresh one from open.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	rows := map[string]func(*testing.T, Backend){
		"a sequence of wanted states":                  sequence,
		"drift is repaired":                            drift,
		"leftovers go, what is not ours stays":         leftovers,
		"a link that is not ours is not taken":         conflict,
		"the other kind makes way":                     otherKind,
		"a link that vanished is an error":             vanished,
		"a context that has ended":                     cancelled,
		"cleanup removes all of ours and only of ours": cleanup,
		"a wanted link that somebody else has to make": waiting,
	}
	for name, run := range rows {
		t.Run(name, func(t *testing.T) { run(t, open(t)) })
	}
}

// mesh is a wanted mesh link.
func (b Backend) mesh(name string, mtu int, addresses ...string) state.Link {
	l := state.Link{Name: name, Kind: b.Kind, MTU: mtu, Up: true, Alias: state.LinkAlias}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l.Normalized()
}

// provide makes the TUN links that are wanted; kernel WireGuard links come by Apply.
func (b Backend) provide(t *testing.T, names ...string) {
	t.Helper()
	if b.Kind != state.LinkTUN {
		return
	}
	for _, name := range names {
		b.Put(t, state.Link{Name: name, Kind: state.LinkTUN})
	}
}

func (b Backend) ensure(t *testing.T, want ...state.Link) link.Change {
	t.Helper()
	change, err := link.Ensure(t.Context(), b, want)
	if err != nil {
		t.Fatal(err)
	}
	b.expect(t, want...)
	if again, err := link.Ensure(t.Context(), b, want); err != nil || !again.Empty() {
		t.Fatalf("not idempotent: %v\nfirst\n%s\nsecond\n%s", err, change, again)
	}
	return change
}

func (b Backend) expect(t *testing.T, want ...state.Link) {
	t.Helper()
	have, err := b.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(have, want, state.Link.Equal) {
		t.Fatalf("have %v\nwant %v", have, want)
	}
}

func sequence(t *testing.T, b Backend) {
	b.provide(t, "weft0")
	b.ensure(t, b.mesh("weft0", 1420, "10.1.0.1/32", "fd00:1::1/128"))
	b.ensure(t, b.mesh("weft0", 1340, "10.1.0.1/32", "fd00:1::1/128"))
	b.ensure(t, b.mesh("weft0", 1340, "10.1.0.2/32", "10.1.0.3/32", "fd00:1::2/128"))
	b.provide(t, "weft1")
	b.ensure(t, b.mesh("weft0", 1340, "10.1.0.2/32", "fd00:1::2/128"), b.mesh("weft1", 1420, "10.1.0.2/32", "fd00:1::2/128"))
	down := b.mesh("weft1", 1420)
	down.Up = false
	b.ensure(t, b.mesh("weft0", 1340), down)
	b.ensure(t, b.mesh("weft1", 1420, "10.1.0.2/32", "fd00:1::2/128"))
	b.ensure(t)
}

func drift(t *testing.T, b Backend) {
	want := b.mesh("weft0", 1420, "10.1.0.1/32", "fd00:1::1/128")
	b.provide(t, "weft0")
	b.ensure(t, want)
	spoils := []link.Settings{
		{Name: "weft0", MTU: 1300},
		{Name: "weft0", SetUp: true},
		{Name: "weft0", Alias: "somebody"},
		{Name: "weft0", Del: want.Addresses},
		{Name: "weft0", Add: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32"), netip.MustParsePrefix("fd00:9::1/128")}},
	}
	for _, spoil := range spoils {
		if err := b.Apply(t.Context(), link.Change{Set: []link.Settings{spoil}}); err != nil {
			t.Fatal(err)
		}
		if change := b.ensure(t, want); change.Empty() {
			t.Errorf("nothing was repaired after\n%s", spoil)
		}
	}
	b.Remove(t, "weft0")
	b.provide(t, "weft0")
	b.ensure(t, want)
}

func leftovers(t *testing.T, b Backend) {
	b.provide(t, "weft0", "weft7")
	b.ensure(t, b.mesh("weft0", 1420), b.mesh("weft7", 1420))
	b.Put(t, state.Link{Name: "weft9", Kind: "bridge"})
	if _, err := link.Ensure(t.Context(), b, []state.Link{b.mesh("weft0", 1420)}); err != nil {
		t.Fatal(err)
	}
	if names := b.names(t); !slices.Equal(names, []string{"weft0", "weft9"}) {
		t.Errorf("links are %v", names)
	}
}

func (b Backend) names(t *testing.T) []string {
	t.Helper()
	have, err := b.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(have))
	for i, l := range have {
		names[i] = l.Name
	}
	return names
}

func conflict(t *testing.T, b Backend) {
	b.Put(t, state.Link{Name: "weft0", Kind: "bridge"})
	b.provide(t, "weft1")
	_, err := link.Ensure(t.Context(), b, []state.Link{b.mesh("weft0", 1420), b.mesh("weft1", 1300)})
	if !errors.Is(err, link.ErrConflict) {
		t.Fatalf("got error %v", err)
	}
	have, err := b.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 2 || have[0].Kind != "bridge" || have[0].Alias != "" || !have[1].Equal(b.mesh("weft1", 1300)) {
		t.Errorf("have %v", have)
	}
}

func otherKind(t *testing.T, b Backend) {
	other := state.LinkTUN
	if b.Kind == state.LinkTUN {
		other = "bridge" // stands for a WireGuard link, which this kernel may not have
	}
	b.Put(t, state.Link{Name: "weft0", Kind: other})
	if err := b.Apply(t.Context(), link.Change{Set: []link.Settings{{Name: "weft0", Alias: state.LinkAlias}}}); err != nil {
		t.Fatal(err)
	}
	change, err := link.Ensure(t.Context(), b, []state.Link{b.mesh("weft0", 1420)})
	if err != nil || !slices.Equal(change.Delete, []string{"weft0"}) {
		t.Fatalf("error %v, change\n%s", err, change)
	}
	b.provide(t, "weft0")
	b.ensure(t, b.mesh("weft0", 1420))
}

func waiting(t *testing.T, b Backend) {
	if b.Kind != state.LinkTUN {
		t.Skip("this backend makes its links itself")
	}
	change, err := link.Ensure(t.Context(), b, []state.Link{b.mesh("weft0", 1420)})
	if err != nil || !change.Empty() || !slices.Equal(change.Waiting, []string{"weft0"}) {
		t.Fatalf("error %v, change\n%s", err, change)
	}
	b.provide(t, "weft0")
	b.ensure(t, b.mesh("weft0", 1420))
}

func vanished(t *testing.T, b Backend) {
	change := link.Change{Delete: []string{"weft3"}, Set: []link.Settings{{Name: "weft4", MTU: 1300}}}
	if err := b.Apply(t.Context(), change); err == nil {
		t.Error("a setting was made on a link that is not there")
	}
	change.Set = nil
	if err := b.Apply(t.Context(), change); err != nil {
		t.Errorf("to delete a link that is gone: %v", err)
	}
}

func cancelled(t *testing.T, b Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Observe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("observe: got %v", err)
	}
	if err := b.Apply(ctx, link.Change{Delete: []string{"weft0"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: got %v", err)
	}
}

func cleanup(t *testing.T, b Backend) {
	b.provide(t, "weft0", "weft1")
	b.ensure(t, b.mesh("weft0", 1420, "10.1.0.1/32"), b.mesh("weft1", 1420))
	b.Put(t, state.Link{Name: "weft9", Kind: "bridge"})
	if _, err := link.Cleanup(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if names := b.names(t); !slices.Equal(names, []string{"weft9"}) {
		t.Errorf("links are %v", names)
	}
}
