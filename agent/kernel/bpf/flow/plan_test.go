//go:build linux

package flow

import (
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func TestPlan(t *testing.T) {
	place := func(index, program int, queued bool) seen {
		s := seen{FlowLink: state.FlowLink{Index: index, Place: true, Queued: queued}, exit: true}
		if program != 0 {
			s.programs = programs{entry: program, exit: program + 10}
		}
		return s
	}
	half := func(s seen, place bool, echo int) seen {
		s.exit, s.programs[exit] = place, echo
		return s
	}
	have := map[int]seen{
		2: place(2, 0, false), // wanted
		3: place(3, 7, false), // there
		4: place(4, 6, false), // of an earlier agent, wanted
		5: place(5, 6, false), // of an earlier agent
		6: place(6, 7, true),  // somebody has come
		7: place(7, 0, true),  // somebody is there
		8: place(8, 0, false), // not wanted
		9: place(9, 7, false), // not wanted any more

		10: half(place(10, 0, false), false, 0), // no place at the exit
		11: half(place(11, 7, false), true, 0),  // half there
	}
	wanted := []int{2, 3, 4, 6, 7, 10, 11, 99}
	for _, row := range []struct {
		what    string
		wanted  []int
		present programs
		want    string
	}{
		{"both", wanted, programs{entry: 7, exit: 17}, "attach to entry of 2, attach to exit of 2, attach to entry of 4, attach to exit of 4, detach from entry of 5, " +
			"detach from exit of 5, detach from entry of 6, detach from exit of 6, detach from entry of 9, detach from exit of 9, attach to entry of 10, attach to exit of 11"},
		{"a kernel without echoes", wanted, programs{entry: 7}, "attach to entry of 2, detach from exit of 3, attach to entry of 4, detach from exit of 4, detach from entry of 5, " +
			"detach from exit of 5, detach from entry of 6, detach from exit of 6, detach from entry of 9, detach from exit of 9, attach to entry of 10"},
		{"to clear", nil, programs{}, "detach from entry of 3, detach from exit of 3, detach from entry of 4, detach from exit of 4, detach from entry of 5, " +
			"detach from exit of 5, detach from entry of 6, detach from exit of 6, detach from entry of 9, detach from exit of 9, detach from entry of 11"},
	} {
		var got []string
		for _, c := range plan(have, row.wanted, row.present) {
			got = append(got, c.String())
		}
		if got := strings.Join(got, ", "); got != row.want {
			t.Errorf("%s: plan %s\nwant %s", row.what, got, row.want)
		}
	}
}

func TestJiffies(t *testing.T) {
	for d, want := range map[time.Duration]uint32{0: 0, time.Microsecond: 1, time.Minute: 15000, 200 * 365 * 24 * time.Hour: 1<<31 - 1} {
		if got := jiffies(d, 4*time.Millisecond); got != want {
			t.Errorf("%s is %d, want %d", d, got, want)
		}
	}
}
