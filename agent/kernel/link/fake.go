package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is links in memory. It obeys the kernel's rules: a new link is down, has no alias and the
// MTU of its kind, and what is set on a link that is gone fails.
type Fake struct {
	mu    sync.Mutex
	links map[string]state.Link
	// NoWireGuard plays a kernel that cannot make WireGuard links.
	NoWireGuard bool
}

// NewFake has the given links.
func NewFake(links ...state.Link) *Fake {
	f := &Fake{links: map[string]state.Link{}}
	for _, l := range links {
		f.links[l.Name] = l.Normalized()
	}
	return f
}

// Put makes or replaces a link, as somebody else would.
func (f *Fake) Put(l state.Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links[l.Name] = l.Normalized()
}

// Remove deletes a link, as somebody else would.
func (f *Fake) Remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, name)
}

// Ensure makes the mesh links what they are wanted to be, and says what it took.
func (f *Fake) Ensure(ctx context.Context, want []state.Link) (Change, error) {
	return Ensure(ctx, f, want)
}

// Observe lists the mesh links, sorted by name.
func (f *Fake) Observe(ctx context.Context) ([]state.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []state.Link
	for name, l := range f.links {
		if meshName.MatchString(name) {
			out = append(out, l.Normalized())
		}
	}
	slices.SortFunc(out, state.Link.Compare)
	return out, nil
}

// Apply carries out a change.
func (f *Fake) Apply(ctx context.Context, change Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	var faults []error
	for _, name := range change.Delete {
		delete(f.links, name)
	}
	for _, name := range change.Create {
		faults = append(faults, f.create(name))
	}
	for _, s := range change.Set {
		faults = append(faults, f.set(s))
	}
	return errors.Join(append(faults, conflicts(change))...)
}

func (f *Fake) create(name string) error {
	if f.NoWireGuard {
		return fmt.Errorf("create WireGuard link %s: %w", name, unix.EOPNOTSUPP)
	}
	if _, there := f.links[name]; !there {
		f.links[name] = state.Link{Name: name, Kind: state.LinkWireGuard, MTU: 1420}
	}
	return nil
}

func (f *Fake) set(s Settings) error {
	l, there := f.links[s.Name]
	if !there {
		return fmt.Errorf("configure link %s: it is gone: %w", s.Name, unix.ENODEV)
	}
	if s.Alias != "" {
		l.Alias = s.Alias
	}
	if s.MTU != 0 {
		l.MTU = s.MTU
	}
	if s.SetUp {
		l.Up = s.Up
	}
	l.Addresses = append(missing(s.Del, l.Addresses), s.Add...)
	f.links[s.Name] = l.Normalized()
	return nil
}
