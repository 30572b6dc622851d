//go:build linux

package sysctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is settings in memory: those that it was made with exist, and no others.
type Fake struct {
	mu     sync.Mutex
	values map[string]string
}

var _ Table = (*Fake)(nil)

// NewFake returns settings with the values given by path.
func NewFake(values map[string]string) *Fake { return &Fake{values: maps.Clone(values)} }

// Set changes a setting, or makes it, as another program or a new link would.
func (f *Fake) Set(path, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.values == nil {
		f.values = map[string]string{}
	}
	f.values[path] = value
}

// Values are all settings.
func (f *Fake) Values() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.values)
}

func (f *Fake) hasIPv6() bool {
	for p := range f.values {
		if strings.HasPrefix(p, "ipv6/conf/") {
			return true
		}
	}
	return false
}

// Observe reads settings.
func (f *Fake) Observe(ctx context.Context, paths []string) (Observed, error) {
	var o Observed
	if err := ctx.Err(); err != nil {
		return o, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var faults []error
	for _, p := range paths {
		v, ok := f.values[p]
		switch {
		case ok:
			o.Settings = append(o.Settings, state.Sysctl{Path: p, Value: normal(v)})
		case strings.HasPrefix(p, "ipv6/") && !f.hasIPv6():
			o.Absent = append(o.Absent, p)
		default:
			faults = append(faults, fmt.Errorf("read net/%s: %w", p, unix.ENOENT))
		}
	}
	o.Settings = state.SortSysctls(o.Settings)
	return o, errors.Join(faults...)
}

// Apply writes settings that exist.
func (f *Fake) Apply(ctx context.Context, c Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var faults []error
	for _, s := range c.Set {
		if _, ok := f.values[s.Path]; !ok {
			faults = append(faults, fmt.Errorf("set net/%s to %s: %w", s.Path, s.Value, unix.ENOENT))
			continue
		}
		f.values[s.Path] = s.Value
	}
	return errors.Join(faults...)
}

// Ensure observes the settings and makes them as wanted.
func (f *Fake) Ensure(ctx context.Context, want []state.Sysctl) (Change, error) {
	return ensure(ctx, f, want)
}
