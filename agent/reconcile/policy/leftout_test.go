//go:build linux

package policy

import (
	"testing"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
)

// TestLimiter : no more lines in a second than the rate, and as many again in the next.
func TestLimiter(t *testing.T) {
	var l limiter
	at := time.Unix(1000, 0)
	for i, row := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, false}, {999 * time.Millisecond, false}, {time.Second, true}, {time.Second, true}, {1500 * time.Millisecond, false}, {time.Minute, true}} {
		if got := l.allow(at.Add(row.after), 2); got != row.want {
			t.Errorf("line %d: %t", i, got)
		}
	}
	if n := l.lines.Load(); n != 5 {
		t.Errorf("%d lines have passed, want 5", n)
	}
	if l.allow(at.Add(time.Hour), 0) {
		t.Error("a rate of none lets a line pass")
	}
}

func denials(id string, packets uint64, logged bool) SiteCount {
	return SiteCount{Site: desired.Site{ID: id, Log: logged}, Counter: nft.Counter{Packets: packets}}
}

// TestLeftOut follows the kernel's counts: each packet without a line is told once, in the look after the one
// that counted it, also where no packet comes any more.
func TestLeftOut(t *testing.T) {
	var m leftOut
	for i, row := range []struct {
		sites  []SiteCount
		logged uint64
		want   uint64
	}{
		{[]SiteCount{denials("a", 500, true), denials("quiet", 9, false)}, 0, 0}, // of before the agent
		{[]SiteCount{denials("a", 600, true), denials("quiet", 99, false)}, 7, 0},
		{[]SiteCount{denials("a", 600, true), denials("quiet", 999, false)}, 10, 90}, // nothing more came; three lines were on their way
		{[]SiteCount{denials("a", 600, true)}, 10, 0},
		{[]SiteCount{denials("a", 605, true), denials("b", 50, true)}, 15, 0}, // a new place counts from its first packet
		{[]SiteCount{denials("a", 605, true), denials("b", 50, true)}, 20, 45},
		{[]SiteCount{denials("a", 4, true)}, 20, 0}, // made anew
		{[]SiteCount{denials("a", 4, true)}, 24, 0},
		{nil, 30, 0}, // six lines of a place that is gone, with its count
		{[]SiteCount{denials("c", 8, true)}, 30, 0},
		{[]SiteCount{denials("c", 8, true)}, 33, 5}, // which is not set against another's
	} {
		if got := m.look(row.sites, row.logged); got != row.want {
			t.Errorf("look %d: %d left out, want %d", i, got, row.want)
		}
	}
}
