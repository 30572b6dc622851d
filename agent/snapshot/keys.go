package snapshot

import (
	"cmp"
	"slices"
)

// SettleKeys returns the snapshot with KeyHeldBy filled in, from what was so before: of the nodes that
// publish one key, the one that had it before keeps it, so that nobody can push a node out of the mesh
// by publishing its key. Where the past knows nothing, the oldest has it. The cache keeps the result,
// and so a restart does not forget it.
func (s Snapshot) SettleKeys(before Snapshot) Snapshot {
	now := holders(s.Nodes, func(Node) bool { return true })
	for key, name := range holders(before.Nodes, func(n Node) bool { return n.KeyHeldBy == "" }) {
		n, there := s.Node(name)
		if n.PublicKey == key || !there && s.Partial { // which proves no absence
			now[key] = name
		}
	}
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.KeyHeldBy = ""
		if holder := now[n.PublicKey]; n.PublicKey != "" && holder != n.Name {
			n.KeyHeldBy = holder
		}
	}
	return s
}

// holders says which of the nodes has each key: the oldest, or the first by name. A key has one text,
// or it is none (state.ParsePublicKey).
func holders(nodes []Node, counts func(Node) bool) map[string]string {
	oldest := make(map[string]Node, len(nodes))
	for _, n := range nodes {
		o, taken := oldest[n.PublicKey]
		older := cmp.Or(n.Created.Compare(o.Created), cmp.Compare(n.Name, o.Name)) < 0
		if n.PublicKey != "" && counts(n) && (!taken || older) {
			oldest[n.PublicKey] = n
		}
	}
	out := make(map[string]string, len(oldest))
	for key, n := range oldest {
		out[key] = n.Name
	}
	return out
}
