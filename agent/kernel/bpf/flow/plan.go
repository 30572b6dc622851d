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
	link int
}

func (c change) String() string {
	return fmt.Sprintf("%s %d", [...]string{attach: "attach to", detach: "detach from"}[c.act], c.link)
}

// plan compares the places where our program is with those where it should be, by their numbers. The
// present program has the number given. It leaves alone a place where somebody else has come.
func plan(have map[int]seen, want []int, program int) []change {
	var out []change
	for _, index := range slices.Sorted(maps.Keys(have)) {
		s := have[index]
		_, wanted := slices.BinarySearch(want, index)
		switch {
		case s.program != 0 && (!wanted || s.Queued):
			out = append(out, change{detach, index})
		case wanted && !s.Queued && s.program != program:
			out = append(out, change{attach, index})
		}
	}
	return out
}
