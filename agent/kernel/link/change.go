package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// Change is what takes the mesh links from one state to another.
type Change struct {
	// Delete lists links that go, Create those that come (kernel WireGuard only); sorted.
	Delete []string
	Create []string
	// Set lists what to change on links that are there after that, sorted by name.
	Set []Settings
	// Waiting lists wanted links that somebody else makes and that are not there yet: the TUN
	// devices of the wireguard process. A link event tells when they are.
	Waiting []string
	// Conflicts lists links that have a wanted name but are neither ours nor of a kind that we
	// could take over. Apply does the rest and then fails.
	Conflicts []state.Link
}

// Settings is what changes on one link. Zero values stay as they are.
type Settings struct {
	Name     string
	Alias    string
	MTU      int
	Add, Del []netip.Prefix
	// SetUp is true when Up changes.
	SetUp, Up bool
}

// Empty tells whether there is nothing to do. To wait is not to do anything.
func (c Change) Empty() bool {
	return len(c.Delete) == 0 && len(c.Create) == 0 && len(c.Set) == 0 && len(c.Conflicts) == 0
}

// String is one line per thing that changes, in the words of ip.
func (c Change) String() string {
	var b strings.Builder
	for _, name := range c.Delete {
		fmt.Fprintf(&b, "link del %s\n", name)
	}
	for _, name := range c.Create {
		fmt.Fprintf(&b, "link add %s type wireguard\n", name)
	}
	for _, s := range c.Set {
		b.WriteString(s.String())
	}
	for _, name := range c.Waiting {
		fmt.Fprintf(&b, "wait for %s\n", name)
	}
	for _, l := range c.Conflicts {
		fmt.Fprintf(&b, "leave %s alone: not ours\n", l.Name)
	}
	return b.String()
}

// String is one line per thing that changes, in the words of ip.
func (s Settings) String() string {
	var b strings.Builder
	if s.Alias != "" {
		fmt.Fprintf(&b, "link set %s alias %s\n", s.Name, s.Alias)
	}
	if s.MTU != 0 {
		fmt.Fprintf(&b, "link set %s mtu %d\n", s.Name, s.MTU)
	}
	for _, a := range s.Del {
		fmt.Fprintf(&b, "address del %s dev %s\n", a, s.Name)
	}
	for _, a := range s.Add {
		fmt.Fprintf(&b, "address add %s dev %s\n", a, s.Name)
	}
	if s.SetUp {
		direction := "down"
		if s.Up {
			direction = "up"
		}
		fmt.Fprintf(&b, "link set %s %s\n", s.Name, direction)
	}
	return b.String()
}

func (s Settings) empty() bool {
	return s.Alias == "" && s.MTU == 0 && len(s.Add) == 0 && len(s.Del) == 0 && !s.SetUp
}

// Diff is the change that takes have to want. A link that is not wanted goes only if it carries our
// alias; a wanted one of the other WireGuard kind makes way, which is how a backend is changed.
func Diff(have, want []state.Link) Change {
	var change Change
	byName := make(map[string]state.Link, len(have))
	for _, l := range have {
		byName[l.Name] = l.Normalized()
	}
	for _, w := range sorted(want) {
		h, there := byName[w.Name]
		delete(byName, w.Name)
		change.diffLink(h, w, there)
	}
	for name, l := range byName {
		if l.Alias == state.LinkAlias || l.Kind == state.LinkWireGuard && name == probeName {
			change.Delete = append(change.Delete, name)
		}
	}
	slices.Sort(change.Delete)
	return change
}

func (c *Change) diffLink(have, want state.Link, there bool) {
	switch {
	case there && have.Kind == want.Kind:
	case there && have.Alias != state.LinkAlias && !meshKind(have.Kind):
		c.Conflicts = append(c.Conflicts, have)
		return
	default:
		if there {
			c.Delete = append(c.Delete, want.Name)
		}
		if want.Kind != state.LinkWireGuard {
			c.Waiting = append(c.Waiting, want.Name)
			return
		}
		c.Create = append(c.Create, want.Name)
		have = state.Link{Name: want.Name, Kind: want.Kind}
	}
	if s := diffSettings(have, want); !s.empty() {
		c.Set = append(c.Set, s)
	}
}

func diffSettings(have, want state.Link) Settings {
	s := Settings{Name: want.Name}
	if want.Alias != have.Alias {
		s.Alias = want.Alias
	}
	if want.MTU != 0 && want.MTU != have.MTU {
		s.MTU = want.MTU
	}
	s.Add, s.Del = missing(have.Addresses, want.Addresses), missing(want.Addresses, have.Addresses)
	s.SetUp, s.Up = want.Up != have.Up, want.Up
	return s
}

// missing lists what is in other but not in these.
func missing(these, other []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range other {
		if !slices.Contains(these, p) {
			out = append(out, p)
		}
	}
	return out
}

func meshKind(k state.LinkKind) bool { return k == state.LinkWireGuard || k == state.LinkTUN }

// sorted is a normalized copy, unique by name.
func sorted(links []state.Link) []state.Link {
	out := make([]state.Link, len(links))
	for i, l := range links {
		out[i] = l.Normalized()
		if out[i].Alias == "" {
			out[i].Alias = state.LinkAlias
		}
	}
	slices.SortStableFunc(out, state.Link.Compare)
	return slices.CompactFunc(out, func(a, b state.Link) bool { return a.Name == b.Name })
}
