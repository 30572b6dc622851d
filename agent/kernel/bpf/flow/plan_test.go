//go:build linux

package flow

import (
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

func TestPlan(t *testing.T) {
	place := func(index, program int, queued bool) seen {
		return seen{FlowLink: state.FlowLink{Index: index, Place: true, Queued: queued}, program: program}
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
	}
	const want = "[attach to 2 attach to 4 detach from 5 detach from 6 detach from 9]"
	if got := fmt.Sprint(plan(have, []int{2, 3, 4, 6, 7, 99}, 7)); got != want {
		t.Errorf("plan %s\nwant %s", got, want)
	}
	if got := fmt.Sprint(plan(have, nil, 0)); got != "[detach from 3 detach from 4 detach from 5 detach from 6 detach from 9]" {
		t.Errorf("to clear: %s", got)
	}
}

func TestJiffies(t *testing.T) {
	for d, want := range map[time.Duration]uint32{0: 0, time.Microsecond: 1, time.Minute: 15000, 200 * 365 * 24 * time.Hour: 1<<31 - 1} {
		if got := jiffies(d, 4*time.Millisecond); got != want {
			t.Errorf("%s is %d, want %d", d, got, want)
		}
	}
}
