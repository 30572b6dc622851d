package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/state"
)

func genLinks(t *rapid.T, label string) []state.Link {
	pool := []string{"10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "fd00::2/128"}
	var out []state.Link
	for _, name := range rapid.Permutation([]string{"weft0", "weft1", "weft2"}).Draw(t, label)[:rapid.IntRange(0, 3).Draw(t, label+" count")] {
		l := state.Link{
			Name: name, Kind: rapid.SampledFrom([]state.LinkKind{state.LinkTUN, state.LinkWireGuard}).Draw(t, "kind"),
			MTU: rapid.IntRange(1280, 1283).Draw(t, "mtu"), Up: rapid.Bool().Draw(t, "up"), Alias: state.LinkAlias,
		}
		for _, a := range pool {
			if rapid.Bool().Draw(t, "address") {
				l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
			}
		}
		out = append(out, l)
	}
	return out
}

func TestApplyingTheDiffGivesWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := genLinks(t, "have"), genLinks(t, "want")
		fake := NewFake(have...)
		change, err := fake.Ensure(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range change.Waiting { // the wireguard process does its part
			fake.Put(state.Link{Name: name, Kind: state.LinkTUN, MTU: 1500})
		}
		if _, err := fake.Ensure(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := fake.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if expected := sorted(want); !slices.EqualFunc(got, expected, state.Link.Equal) {
			t.Fatalf("got %v\nwant %v\nchange\n%s", got, expected, change)
		}
		if again := Diff(got, want); !again.Empty() || len(again.Waiting) > 0 {
			t.Fatalf("a second Diff is not empty:\n%s", again)
		}
	})
}

func TestLinksOfPodsAreNotMeshLinks(t *testing.T) {
	for name, mesh := range map[string]bool{
		"weft0": true, "weft12": true, "weftx": true, "weftp0a1b2c": false, "weftb0a1b2c": false, "weft": false, "eth0": false, "weft0a": false,
	} {
		if meshName.MatchString(name) != mesh {
			t.Errorf("%s is a mesh link: %t, want %t", name, !mesh, mesh)
		}
	}
}

func TestProbeHasThreeAnswers(t *testing.T) {
	for _, row := range []struct {
		err  error
		want Answer
	}{
		{nil, Yes}, {unix.EEXIST, Yes}, {unix.EOPNOTSUPP, No}, {unix.EPERM, Unknown}, {unix.ENOBUFS, Unknown},
		{fmt.Errorf("add: %w", unix.EOPNOTSUPP), No},
	} {
		if got := probeResult(row.err); got.Answer != row.want || got.Reason == "" {
			t.Errorf("%v: got %s", row.err, got)
		}
	}
}

func TestAnInterruptedDumpIsRepeated(t *testing.T) {
	calls := 0
	got, err := Dump(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{calls}, fmt.Errorf("dump: %w", netlink.ErrDumpInterrupted)
		}
		return []int{1, 2, 3}, nil
	})
	if err != nil || len(got) != 3 {
		t.Errorf("got %v after %d calls: %v", got, calls, err)
	}
	calls = 0
	_, err = Dump(func() (int, error) { calls++; return 0, unix.EINTR })
	if !errors.Is(err, unix.EINTR) || calls != dumpAttempts {
		t.Errorf("%d calls: %v", calls, err)
	}
	calls = 0
	if _, err := Dump(func() (int, error) { calls++; return 0, unix.EPERM }); !errors.Is(err, unix.EPERM) || calls != 1 {
		t.Errorf("%d calls: %v", calls, err)
	}
}

func TestEventsMergeWhileNobodyLooks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := make(chan Event), make(chan Event)
	go merge(ctx, in, out)
	for _, e := range []Event{{Links: []string{"weft0"}}, {Links: []string{"eth0"}}, {Links: []string{"weft0"}}, {Lost: true}} {
		in <- e
	}
	got := <-out
	if !slices.Equal(got.Links, []string{"eth0", "weft0"}) || !got.Lost {
		t.Errorf("got %+v", got)
	}
	close(in)
	if _, open := <-out; open {
		t.Error("the channel is open after its source has ended")
	}
}

func TestChangeText(t *testing.T) {
	mesh := func(name string, kind state.LinkKind) state.Link {
		return state.Link{Name: name, Kind: kind, MTU: 1420, Up: true, Alias: state.LinkAlias,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")}}
	}
	old := mesh("weft0", state.LinkWireGuard)
	old.Up, old.Addresses = false, []netip.Prefix{netip.MustParsePrefix("10.0.0.9/32")}
	have := []state.Link{old, mesh("weft5", state.LinkTUN), {Name: "weft6", Kind: "bridge"}}
	want := []state.Link{mesh("weft0", state.LinkWireGuard), mesh("weft1", state.LinkWireGuard), mesh("weft2", state.LinkTUN), mesh("weft6", state.LinkTUN)}
	const text = `link del weft5
link add weft1 type wireguard
address del 10.0.0.9/32 dev weft0
address add 10.0.0.1/32 dev weft0
address add fd00::1/128 dev weft0
link set weft0 up
link set weft1 alias weftnet
link set weft1 mtu 1420
address add 10.0.0.1/32 dev weft1
address add fd00::1/128 dev weft1
link set weft1 up
wait for weft2
leave weft6 alone: not ours
`
	if got := Diff(have, want).String(); got != text {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}
