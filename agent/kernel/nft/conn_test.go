//go:build linux

package nft

import (
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

// TestWhatIsLarge : a table, a chain or a set may go with 100,000 elements; one that comes or goes by itself is little.
func TestWhatIsLarge(t *testing.T) {
	other := standing()
	other.Sets = []state.Set{{Name: "ways", Kind: state.KindVMap, Key: []state.DataType{state.TypeIfName}, Elements: []state.Element{{Key: link("b"), Verdict: state.Jump("old")}}}}
	none := standing()
	none.Sets = []state.Set{{Name: "ways", Kind: state.KindVMap, Key: []state.DataType{state.TypeIfName}}}
	for name, test := range map[string]struct {
		change Change
		large  bool
	}{
		"another element": {diffTables(standing(), other.Sorted()), false}, "no element": {diffTables(standing(), none.Sorted()), false},
		"another chain": {diffTables(standing(), exchanged("a")), true}, "no table": {Delete("inet", "weftnet-test"), true},
	} {
		msgs, err := encode(test.change)
		if err != nil || len(msgs) == 0 {
			t.Fatalf("%s: %d messages, %v", name, len(msgs), err)
		}
		if large := slices.ContainsFunc(msgs, message.large); large != test.large {
			t.Errorf("%s is large: %t", name, large)
		}
	}
}
