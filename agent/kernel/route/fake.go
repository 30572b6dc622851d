//go:build linux

package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is routing tables in memory that obey the kernel's rules: one route to a table, destination
// and metric, whoever's it is; no route through a link that does not exist; routes go with their link.
type Fake struct {
	mu      sync.Mutex
	links   map[string]bool
	routes  []state.Route
	foreign map[state.RouteKey]bool
	rules   []state.Rule
	applied int
}

var _ Table = (*Fake)(nil)

// NewFake returns a network namespace with the links.
func NewFake(links ...string) *Fake {
	f := &Fake{links: map[string]bool{}, foreign: map[state.RouteKey]bool{}}
	for _, l := range links {
		f.links[l] = true
	}
	return f
}

// AddLink makes a link.
func (f *Fake) AddLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links[name] = true
}

// DeleteLink deletes a link, and the routes through it.
func (f *Fake) DeleteLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, name)
	f.routes = slices.DeleteFunc(f.routes, func(r state.Route) bool { return r.Dev == name })
}

// AddForeign puts a stranger's route in a place.
func (f *Fake) AddForeign(r state.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign[r.Key()] = true
}

// Remove takes routes and rules away, as another program would.
func (f *Fake) Remove(routes []state.Route, rules []state.Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes = slices.DeleteFunc(f.routes, func(r state.Route) bool { return slices.ContainsFunc(routes, r.Equal) })
	f.rules = slices.DeleteFunc(f.rules, func(r state.Rule) bool { return slices.ContainsFunc(rules, r.Equal) })
}

// Applied is the number of changes carried out that were not empty.
func (f *Fake) Applied() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// Observe lists what is ours.
func (f *Fake) Observe(ctx context.Context) (Observed, error) {
	if err := ctx.Err(); err != nil {
		return Observed{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return Observed{Routes: state.SortRoutes(f.routes), Rules: state.SortRules(f.rules)}, nil
}

// Apply carries out a change.
func (f *Fake) Apply(ctx context.Context, c Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.Empty() {
		f.applied++
	}
	var faults []error
	for _, r := range c.Add {
		faults = append(faults, f.add(r.Normalized(), false))
	}
	for _, r := range c.Replace {
		faults = append(faults, f.add(r.Normalized(), true))
	}
	for _, r := range c.AddRules {
		if !slices.ContainsFunc(f.rules, r.Equal) {
			f.rules = append(f.rules, r.Normalized())
		}
	}
	for _, r := range c.DeleteRules {
		f.rules = slices.DeleteFunc(f.rules, r.Equal)
	}
	for _, r := range c.Delete {
		f.routes = slices.DeleteFunc(f.routes, r.Equal)
	}
	return errors.Join(faults...)
}

func (f *Fake) add(r state.Route, replace bool) error {
	same := slices.IndexFunc(f.routes, func(x state.Route) bool { return x.Key() == r.Key() })
	switch {
	case r.Type == state.Unicast && !f.links[r.Dev]:
		return fmt.Errorf("add route %s: %w", r, unix.ENODEV)
	case same >= 0 && replace:
		f.routes[same] = r
	case same >= 0 || f.foreign[r.Key()]:
		return fmt.Errorf("add route %s: %w", r, unix.EEXIST)
	default:
		f.routes = append(f.routes, r)
	}
	return nil
}

// Ensure observes what is ours and makes it as wanted.
func (f *Fake) Ensure(ctx context.Context, want Wanted) (Change, error) { return ensure(ctx, f, want) }

// Cleanup deletes all that is ours.
func (f *Fake) Cleanup(ctx context.Context) error {
	_, err := f.Ensure(ctx, Wanted{})
	return err
}
