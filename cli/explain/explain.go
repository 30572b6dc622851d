// Package explain says why a pair of nodes cannot talk. It is a pure function from what was seen
// of the mesh to a list of findings, each with what to do about it. Every check stands alone and
// assumes nothing of the others, so that one cause does not hide a second.
package explain

import (
	"fmt"
	"slices"

	"github.com/weftnet/weftnet/cli/view"
)

// Level says what a finding means for the pair.
type Level int

const (
	// Broken : while this holds, the pair cannot talk.
	Broken Level = iota
	// Suspect : this may be why the pair cannot talk, or soon will not.
	Suspect
	// Note : good to know.
	Note
)

// String names the level as it is shown.
func (l Level) String() string {
	switch l {
	case Broken:
		return "BROKEN"
	case Suspect:
		return "suspect"
	default:
		return "note"
	}
}

// Finding is one thing that was found, and what to do about it.
type Finding struct {
	Level Level
	// About is the name of a node, or both as "a <-> b" or "a -> b".
	About string
	Text  string
	Do    string
}

// side is one of the two nodes with what is known of it.
type side struct {
	mesh *view.Mesh
	name string
}

func (s side) found(level Level, do, format string, args ...any) Finding {
	return Finding{Level: level, About: s.name, Text: fmt.Sprintf(format, args...), Do: do}
}

// sideChecks look at one node, pairChecks at two.
var (
	sideChecks = []func(side) []Finding{node, allocated, agent, published, conditions}
	pairChecks = []func(a, b side) []Finding{sameKey, families, overlap, mtu, silence, handshakes}
)

// Pair returns what stands between the nodes a and b, what matters most first.
func Pair(m *view.Mesh, a, b string) []Finding {
	if a == b {
		return []Finding{{Note, a, "traffic within one node is forwarded by its kernel and never enters the mesh", "look at the Pods and at `weft check --node` there"}}
	}
	one, two := side{m, a}, side{m, b}
	var found []Finding
	for _, check := range sideChecks {
		found = append(found, check(one)...)
		found = append(found, check(two)...)
	}
	for _, check := range pairChecks {
		found = append(found, check(one, two)...)
	}
	found = append(found, operators(m, found)...)
	slices.SortStableFunc(found, func(x, y Finding) int { return int(x.Level) - int(y.Level) })
	return found
}

// Works says whether nothing that was found stops the pair, and both directions have a good session.
func Works(m *view.Mesh, a, b string, found []Finding) bool {
	if slices.ContainsFunc(found, func(f Finding) bool { return f.Level == Broken }) {
		return false
	}
	return a == b || m.Links[a][b].Alive() && m.Links[b][a].Alive()
}
