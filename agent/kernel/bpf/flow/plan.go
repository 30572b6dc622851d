//go:build linux

package flow

import (
	"fmt"
	"maps"
	"slices"
)

type act int

const (
	attach act = iota
	detach
)

// change is one step at a link.
type change struct {
	act  act
	hook hook
	link int
}

func (c change) String() string {
	return fmt.Sprintf("%s %s of %d", [...]string{attach: "attach to", detach: "detach from"}[c.act], [...]string{entry: "entry", exit: "exit"}[c.hook], c.link)
}

// plan compares the places where our programs are with those where they should be, by the links' numbers. The
// present programs have the numbers given; one that this kernel does not take has none, and is wanted nowhere.
// It leaves alone a link where somebody else has come.
func plan(have map[int]seen, want []int, present programs) []change {
	var out []change
	for _, index := range slices.Sorted(maps.Keys(have)) {
		s := have[index]
		_, wanted := slices.BinarySearch(want, index)
		for _, h := range hooks {
			here := wanted && !s.Queued && present[h] != 0 && (h != exit || s.exit)
			switch {
			case here && s.programs[h] != present[h]:
				out = append(out, change{attach, h, index})
			case !here && s.programs[h] != 0:
				out = append(out, change{detach, h, index})
			}
		}
	}
	return out
}
