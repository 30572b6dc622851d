package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func dual(cooldown time.Duration) *Pool {
	p := New(cooldown)
	p.SetBlocks(prefixes("10.244.1.0/29", "fd00:10:244:1::/64"), addrs("10.244.1.1", "fd00:10:244:1::1"))
	return p
}

func TestAllocateGivesBothFamiliesInOrder(t *testing.T) {
	p := dual(time.Minute)
	for i, want := range []string{"[10.244.1.2 fd00:10:244:1::2]", "[10.244.1.3 fd00:10:244:1::3]"} {
		got, err := p.Allocate(fmt.Sprint(i), start)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("got %v, %v; want %s", got, err, want)
		}
	}
	again, err := p.Allocate("0", start)
	if err != nil || fmt.Sprint(again) != "[10.244.1.2 fd00:10:244:1::2]" {
		t.Errorf("again: %v, %v", again, err)
	}
}

func TestExhaustionSaysWhy(t *testing.T) {
	p := dual(time.Minute)
	for i := range 5 { // .2 to .6: .0, .1 and .7 are not for Pods
		if _, err := p.Allocate(fmt.Sprint(i), start); err != nil {
			t.Fatal(err)
		}
	}
	p.Release("3", start)
	_, err := p.Allocate("more", start.Add(20*time.Second))
	var exhausted *ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Used != 4 || exhausted.Cooling != 1 || exhausted.Next != 40*time.Second {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"10.244.1.0/29", "ipv4", "4 in use", "1 cooling down", "40s"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if u := p.Usage(start); u[1].Used != 4 {
		t.Errorf("a failed allocation kept an address: %+v", u)
	}
	got, err := p.Allocate("more", start.Add(time.Minute))
	if err != nil || got[0].String() != "10.244.1.5" {
		t.Errorf("after the cooldown: %v, %v", got, err)
	}
}

func TestRingRestsAddressesLongest(t *testing.T) {
	p := dual(0)
	var got []string
	for range 7 {
		a, err := p.Allocate("x", start)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a[0].String()[len("10.244.1."):])
		p.Release("x", start)
	}
	if want := "2 3 4 5 6 2 3"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestSecondBlockTakesOver(t *testing.T) {
	p := New(0)
	p.SetBlocks(prefixes("10.0.0.0/30", "10.0.1.0/30"), nil)
	var got []string
	for i := range 4 {
		a, err := p.Allocate(fmt.Sprint(i), start)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a[0].String())
	}
	if want := "10.0.0.1 10.0.0.2 10.0.1.1 10.0.1.2"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestRestoreBeforeBlocksAreKnown(t *testing.T) {
	p := New(time.Minute)
	if _, err := p.Allocate("early", start); !errors.Is(err, ErrNoBlocks) {
		t.Errorf("got %v, want %v", err, ErrNoBlocks)
	}
	if err := p.Restore("old", addrs("10.244.1.3")); err != nil {
		t.Fatal(err)
	}
	if err := p.Restore("other", addrs("10.244.1.3")); err == nil {
		t.Error("one address was restored for two")
	}
	p.Resume(addrs("10.244.1.3"))
	p.Cool(addrs("10.244.1.4"), start)
	p.SetBlocks(prefixes("10.244.1.0/29"), addrs("10.244.1.1"))
	got, err := p.Allocate("new", start)
	if err != nil || got[0].String() != "10.244.1.5" {
		t.Errorf("got %v, %v; want the first behind the one in use and the one that cools", got, err)
	}
}

// TestHistories holds the pool against its promises over random histories: no address for two, none
// that is reserved, cooling or outside the blocks, none lost.
func TestHistories(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := dual(10 * time.Second)
		now := start
		held := map[string][]netip.Addr{}
		released := map[netip.Addr]time.Time{}
		for step := range 300 {
			now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
			owner := fmt.Sprint(r.IntN(8))
			if r.IntN(2) == 0 {
				for _, a := range p.Release(owner, now) {
					released[a] = now
				}
				delete(held, owner)
				continue
			}
			got, err := p.Allocate(owner, now)
			if have, again := held[owner]; again && !slices.Equal(have, got) {
				t.Fatalf("seed %d step %d: %s had %v, got %v", seed, step, owner, have, got)
			} else if again || err != nil {
				continue
			}
			check(t, p, held, released, got, now)
			held[owner] = got
		}
		for _, u := range p.Usage(now.Add(time.Hour)) {
			if u.Used != len(held) || u.Cooling != 0 {
				t.Fatalf("seed %d: %d held, usage %+v", seed, len(held), u)
			}
		}
	}
}

func check(t *testing.T, p *Pool, held map[string][]netip.Addr, released map[netip.Addr]time.Time, got []netip.Addr, now time.Time) {
	t.Helper()
	if len(got) != 2 {
		t.Fatalf("got %v, want one of each family", got)
	}
	for _, a := range got {
		for owner, others := range held {
			if slices.Contains(others, a) {
				t.Fatalf("%s is %s's already", a, owner)
			}
		}
		if at, was := released[a]; was && now.Sub(at) < 10*time.Second {
			t.Fatalf("%s was given %s after its release", a, now.Sub(at))
		}
		if p.reserved[a] || !p.blocks[0].gives(a) && !p.blocks[1].gives(a) {
			t.Fatalf("%s is not to be given", a)
		}
	}
}
