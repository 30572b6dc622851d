package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Sysctl is one kernel setting of the network.
type Sysctl struct {
	// Path is relative to net/, with slashes, as in "ipv4/conf/weft0/rp_filter".
	Path  string
	Value string
}

// Compare orders settings by path, then by value.
func (s Sysctl) Compare(o Sysctl) int {
	return cmp.Or(cmp.Compare(s.Path, o.Path), cmp.Compare(s.Value, o.Value))
}

// Equal tells whether both set the same path to the same value.
func (s Sysctl) Equal(o Sysctl) bool { return s == o }

// String prints the setting as sysctl does; slashes stay, since link names may hold dots.
func (s Sysctl) String() string { return fmt.Sprintf("net/%s = %s", s.Path, s.Value) }

// Validate tells what is wrong with the path or the value.
func (s Sysctl) Validate() error {
	if s.Path == "" || strings.HasPrefix(s.Path, "/") {
		return fmt.Errorf("sysctl path %q: want a path relative to net/", s.Path)
	}
	for part := range strings.SplitSeq(s.Path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("sysctl path %q: bad element %q", s.Path, part)
		}
	}
	if strings.TrimSpace(s.Value) == "" {
		return fmt.Errorf("sysctl %s: empty value", s.Path)
	}
	return nil
}

// SortSysctls returns the settings sorted and without repetition, in a slice of its own.
func SortSysctls(in []Sysctl) []Sysctl {
	out := slices.Clone(in)
	slices.SortFunc(out, Sysctl.Compare)
	return slices.Compact(out)
}
