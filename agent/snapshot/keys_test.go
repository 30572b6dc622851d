package snapshot

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// claim is a node of an age, in days, that publishes a key.
func claim(name string, age int, key string) Node {
	return Node{Name: name, Created: time.Unix(1_700_000_000, 0).AddDate(0, 0, -age), PublicKey: key}
}

func TestSettleKeys(t *testing.T) {
	old, victim, thief := claim("old", 9, "k1"), claim("victim", 1, "k2"), claim("old", 9, "k2")
	rows := []struct {
		name    string
		history [][]Node
		partial bool // of the last
		want    string
	}{
		{"nobody shares", [][]Node{{old, victim}}, false, "old= victim="},
		{"an older node steals", [][]Node{{old, victim}, {thief, victim}}, false, "old=victim victim="},
		{"and keeps at it", [][]Node{{old, victim}, {thief, victim}, {thief, victim}, {thief, victim}}, false, "old=victim victim="},
		{"a newcomer steals", [][]Node{{victim}, {victim, claim("new", 0, "k2")}}, false, "new=victim victim="},
		{"no past: the oldest", [][]Node{{thief, victim}}, false, "old= victim=old"},
		{"no past, one age: the first by name", [][]Node{{claim("b", 1, "k"), claim("a", 1, "k")}}, false, "a= b=a"},
		{"the holder takes a new key", [][]Node{{old, victim}, {thief, claim("victim", 1, "k3")}}, false, "old= victim="},
		{"the holder has gone", [][]Node{{old, victim}, {thief}}, false, "old="},
		{"the holder is not known to have gone", [][]Node{{old, victim}, {thief}}, true, "old=victim"},
		{"nodes without a key", [][]Node{{claim("a", 1, ""), claim("b", 1, "")}}, false, "a= b="},
		{"the thief gives up", [][]Node{{old, victim}, {thief, victim}, {old, victim}}, false, "old= victim="},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var last Snapshot
			for i, nodes := range row.history {
				next := Snapshot{Nodes: nodes, Partial: row.partial && i == len(row.history)-1}.Sorted()
				last = throughTheCache(t, next.SettleKeys(last))
			}
			got := ""
			for _, n := range last.Nodes {
				got += fmt.Sprintf(" %s=%s", n.Name, n.KeyHeldBy)
			}
			if got != " "+row.want {
				t.Errorf("got%s, want %s", got, row.want)
			}
		})
	}
}

// throughTheCache is what a restart leaves of a snapshot.
func throughTheCache(t *testing.T, s Snapshot) Snapshot {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var out Snapshot
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
