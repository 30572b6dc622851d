//go:build linux

package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// Wanted is all that shall be ours in the routing tables.
type Wanted struct {
	Routes []state.Route
	Rules  []state.Rule
}

// Observed is what the kernel has of ours.
type Observed struct {
	Routes []state.Route
	Rules  []state.Rule
	// Strays are rules within our priorities that we cannot have written, since they match by
	// something that state.Rule cannot say.
	Strays []Stray
}

// Stray is a rule in the kernel's own form, by which it can be deleted.
type Stray struct {
	Priority int
	message  string
}

// Change is what has to be done, in the order of its fields.
type Change struct {
	Add, Replace []state.Route
	AddRules     []state.Rule
	DeleteRules  []state.Rule
	DeleteStrays []Stray
	Delete       []state.Route
	// Conflicts are wanted routes whose place a stranger's route has; nothing is done about them.
	// Only Ensure finds them.
	Conflicts []state.Route
}

// Empty tells whether there is nothing to do.
func (c Change) Empty() bool {
	return len(c.Add)+len(c.Replace)+len(c.AddRules)+len(c.DeleteRules)+len(c.DeleteStrays)+len(c.Delete) == 0
}

// String prints the change as the ip commands that it amounts to, one a line.
func (c Change) String() string {
	var lines []string
	for _, r := range c.Add {
		lines = append(lines, "ip route add "+r.String())
	}
	for _, r := range c.Replace {
		lines = append(lines, "ip route replace "+r.String())
	}
	for _, r := range c.AddRules {
		lines = append(lines, "ip rule add "+r.String())
	}
	for _, r := range c.DeleteRules {
		lines = append(lines, "ip rule del "+r.String())
	}
	for _, s := range c.DeleteStrays {
		lines = append(lines, fmt.Sprintf("ip rule del priority %d # not Weftnet's", s.Priority))
	}
	for _, r := range c.Delete {
		lines = append(lines, "ip route del "+r.String())
	}
	return strings.Join(lines, "\n")
}

// Diff says what turns have into want. Neither is changed.
func Diff(have Observed, want Wanted) Change {
	var c Change
	wanted := state.SortRoutes(want.Routes)
	byKey := map[state.RouteKey][]state.Route{}
	for _, r := range have.Routes {
		byKey[r.Key()] = append(byKey[r.Key()], r)
	}
	for i, w := range wanted {
		if i > 0 && wanted[i-1].Key() == w.Key() {
			continue // two for one place: the first in order has it
		}
		there := byKey[w.Key()]
		switch at := slices.IndexFunc(there, w.Equal); {
		case at >= 0:
			byKey[w.Key()] = slices.Delete(slices.Clone(there), at, at+1)
		case len(there) > 0:
			c.Replace = append(c.Replace, w)
			byKey[w.Key()] = there[1:]
		default:
			c.Add = append(c.Add, w)
		}
	}
	for _, left := range byKey {
		c.Delete = append(c.Delete, left...)
	}
	c.Delete = state.SortRoutes(c.Delete)
	diffRules(&c, have, want)
	return c
}

func diffRules(c *Change, have Observed, want Wanted) {
	haveRules, wantRules := state.SortRules(have.Rules), state.SortRules(want.Rules)
	for _, w := range wantRules {
		if !slices.ContainsFunc(haveRules, w.Equal) {
			c.AddRules = append(c.AddRules, w)
		}
	}
	for _, h := range haveRules {
		if !slices.ContainsFunc(wantRules, h.Equal) {
			c.DeleteRules = append(c.DeleteRules, h)
		}
	}
	c.DeleteStrays = slices.Clone(have.Strays)
}

// ErrConflict says that a stranger's route has the place (table, destination and metric) of a
// wanted one.
var ErrConflict = errors.New("another program's route is in the way")

// Validate tells what cannot be ours: a rule outside our priorities.
func (w Wanted) Validate() error {
	var faults []error
	for _, r := range w.Rules {
		if r.Priority < state.RulePriorityMin || r.Priority > state.RulePriorityMax {
			faults = append(faults, fmt.Errorf("rule %s: priority is outside %d-%d", r, state.RulePriorityMin, state.RulePriorityMax))
		}
		if n := r.Normalized(); n.Family != state.IPv4 && n.Family != state.IPv6 {
			faults = append(faults, fmt.Errorf("rule %s: no family", r))
		}
	}
	for _, r := range w.Routes {
		if !r.Dst.IsValid() || (r.Type == state.Unicast && r.Dev == "" && !r.Gateway.IsValid()) {
			faults = append(faults, fmt.Errorf("route %s: destination or device is missing", r))
		}
	}
	return errors.Join(faults...)
}
