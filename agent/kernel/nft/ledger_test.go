//go:build linux

package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/state"
)

// ledgerFrame is a small service proxy: a map of marks, a dispatch, a chain for each count.
func ledgerFrame(chains int) state.Table {
	ip, mark := []state.DataType{state.TypeIPv4}, []state.DataType{state.TypeMark}
	dispatch := state.Set{Name: "dispatch", Kind: state.KindVMap, Key: mark}
	t := state.Table{Family: "inet", Name: state.ServiceTableName, Chains: []state.Chain{{
		Name: "entry", Type: state.ChainNAT, Hook: state.HookPrerouting, Priority: state.PriorityDstNAT, Rules: rules(
			statements{state.SetMark{Fields: state.Fields(state.FieldIPDaddr), Map: "marks"}},
			statements{state.VMapLookup{Fields: state.Fields(state.FieldMark), Map: "dispatch"}},
		)}}}
	for i := range chains {
		name := fmt.Sprintf("lb-%d", i+1)
		t.Chains = append(t.Chains, state.Chain{Name: name, Rules: rules(statements{state.Accept})})
		dispatch.Elements = append(dispatch.Elements, state.Element{Key: state.MarkValue(uint32(i + 1)), Verdict: state.Goto(name)})
	}
	t.Sets = []state.Set{dispatch, {Name: "marks", Kind: state.KindMap, Key: ip, Data: mark}, {Name: "peers", Key: ip}}
	return t
}

func ip4(last int) state.Value {
	return state.AddrValue(netip.AddrFrom4([4]byte{10, byte(last >> 16), byte(last >> 8), byte(last)}))
}

func marked(ip, mark int) state.Element {
	return state.Element{Key: ip4(ip), Data: state.MarkValue(uint32(mark))}
}

func wish(owner string, sets map[string][]state.Element) Wanted {
	return Wanted{Owner: owner, Sets: sets}
}

// expected is the table that the wishes mean: for each key the element of the most senior owner.
func expected(frame state.Table, wishes map[string]Wanted) state.Table {
	frame = clone(frame.Sorted())
	var order []Wanted
	for _, w := range wishes {
		order = append(order, w)
	}
	slices.SortFunc(order, func(a, b Wanted) int {
		if a.Age != b.Age {
			return int(a.Age - b.Age)
		}
		return strings.Compare(a.Owner, b.Owner)
	})
	for i, s := range frame.Sets {
		for _, w := range order {
			for _, e := range w.Sets[s.Name] {
				if !slices.ContainsFunc(frame.Sets[i].Elements, func(x state.Element) bool { return x.Key == e.Key }) {
					frame.Sets[i].Elements = append(frame.Sets[i].Elements, e)
				}
			}
		}
	}
	return frame.Sorted()
}

func mustEqual(t interface {
	Helper()
	Fatalf(string, ...any)
}, fake *Fake, want state.Table) {
	t.Helper()
	if got, _ := fake.Table(); !got.Equal(want) {
		t.Fatalf("the table is\n%s\nwant\n%s", got, want)
	}
}

// anyWish draws what an owner may want, of few keys, so that owners meet.
func anyWish(t *rapid.T, owner string) Wanted {
	w := Wanted{Owner: owner, Age: int64(rapid.IntRange(0, 2).Draw(t, "age")), Rank: rapid.Byte().Draw(t, "rank"), Sets: map[string][]state.Element{}}
	for _, ip := range rapid.SliceOfDistinct(rapid.IntRange(1, 6), rapid.ID).Draw(t, "keys") {
		w.Sets["marks"] = append(w.Sets["marks"], marked(ip, rapid.IntRange(1, 2).Draw(t, "mark")))
	}
	for _, ip := range rapid.SliceOfDistinct(rapid.IntRange(1, 3), rapid.ID).Draw(t, "peers") {
		w.Sets["peers"] = append(w.Sets["peers"], state.Element{Key: ip4(ip)})
	}
	return w
}

// TestLedgerFollowsEveryHistory puts, takes away, changes frames, lets strangers in and refuses, and
// after each step the table is what the wishes mean. Now and then the agent is restarted. Transactions are of one element
// and more, so that a refusal meets one while the next is in the making.
func TestLedgerFollowsEveryHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fake, wishes, frame := NewFake(), map[string]Wanted{}, ledgerFrame(2)
		most := rapid.SampledFrom([]int{1, 2, maxTransaction}).Draw(rt, "most")
		start := func() *Ledger {
			l := NewLedger(fake)
			l.most = most
			if _, err := l.Frame(t.Context(), frame); err != nil {
				rt.Fatal(err)
			}
			var all []Wanted
			for _, w := range wishes {
				all = append(all, w)
			}
			if _, err := l.Put(t.Context(), all); err != nil {
				rt.Fatal(err)
			}
			if _, err := l.Sweep(t.Context()); err != nil {
				rt.Fatal(err)
			}
			return l
		}
		l := start()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				l = start()
			case 1:
				frame = ledgerFrame(rapid.IntRange(2, 4).Draw(rt, "chains"))
				if _, err := l.Frame(t.Context(), frame); err != nil {
					rt.Fatal(err)
				}
			case 2:
				stranger(rt, fake)
				if _, err := l.Reload(t.Context()); err != nil {
					rt.Fatal(err)
				}
			case 3:
				refusal := rapid.SampledFrom([]error{unix.EINVAL, unix.ENOENT, unix.EEXIST, unix.EPERM}).Draw(rt, "refusal")
				fake.RefuseAfter(rapid.IntRange(0, 6).Draw(rt, "pass"), refusal)
				fallthrough
			default:
				var batch []Wanted
				for _, owner := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), rapid.ID).Draw(rt, "owners") {
					w := anyWish(rt, owner)
					batch = append(batch, w)
					wishes[owner] = w
				}
				out, err := l.Put(t.Context(), batch)
				fake.RefuseNext(nil)
				if errors.Is(err, unix.EPERM) { // nobody's fault, and nothing is kept of what was not written
					out, err = l.Put(t.Context(), batch)
				}
				if err != nil || len(out.Refused) > 0 {
					rt.Fatalf("put: %v, %v", out, err)
				}
			}
			mustEqual(rt, fake, expected(frame, wishes))
		}
	})
}

// stranger damages the table in some way.
func stranger(t *rapid.T, fake *Fake) {
	fake.mu.Lock()
	defer fake.mu.Unlock()
	switch rapid.IntRange(0, 3).Draw(t, "damage") {
	case 0:
		fake.exists, fake.table = false, state.Table{}
	case 1:
		for i := range fake.table.Sets {
			fake.table.Sets[i].Elements = nil
		}
	case 2:
		fake.table.Chains[0].Rules = nil
	default:
		for i, s := range fake.table.Sets {
			if s.Name == "marks" {
				fake.table.Sets[i].Elements = []state.Element{marked(1, 7), marked(9, 9)}
			}
		}
	}
}

// TestLedgerSendsOnlyDifferences looks at the transactions.
func TestLedgerSendsOnlyDifferences(t *testing.T) {
	fake := NewFake()
	l := NewLedger(fake)
	if _, err := l.Frame(t.Context(), ledgerFrame(2)); err != nil {
		t.Fatal(err)
	}
	put := func(w ...Wanted) Outcome {
		t.Helper()
		out, err := l.Put(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a := wish("a", map[string][]state.Element{"marks": {marked(1, 1), marked(2, 1)}, "peers": {{Key: ip4(1)}}})
	for _, row := range []struct {
		name                         string
		wanted                       []Wanted
		transactions, added, deleted int
	}{
		{"new", []Wanted{a}, 1, 3, 0},
		{"the same", []Wanted{a}, 0, 0, 0},
		{"one datum", []Wanted{wish("a", map[string][]state.Element{"marks": {marked(1, 1), marked(2, 2)}, "peers": {{Key: ip4(1)}}})}, 1, 1, 1},
		{"another owner with the same element", []Wanted{wish("b", map[string][]state.Element{"peers": {{Key: ip4(1)}}})}, 0, 0, 0},
		{"the first owner goes", []Wanted{wish("a", nil)}, 1, 0, 2},
		{"the second, too", []Wanted{wish("b", nil)}, 1, 0, 1},
		{"a stranger to us goes", []Wanted{wish("c", nil)}, 0, 0, 0},
		{"new again", []Wanted{a}, 1, 3, 0},
		{"from one owner to another", []Wanted{wish("a", nil), wish("b", a.Sets)}, 0, 0, 0},
	} {
		if out := put(row.wanted...); out.Transactions != row.transactions || out.Added != row.added || out.Deleted != row.deleted || out.Observed {
			t.Errorf("%s: %s, observed %v", row.name, out, out.Observed)
		}
	}
	if l.Owners() != 1 || !l.Has("b") || l.Has("a") || l.Elements()["marks"] != 2 {
		t.Errorf("owners are %v, elements %v", l.Known(), l.Elements())
	}
}

// TestLedgerLeavesOnlyTheBadOneOut has one owner with an element that no kernel takes.
func TestLedgerLeavesOnlyTheBadOneOut(t *testing.T) {
	for _, most := range []int{1, 3, maxTransaction} {
		t.Run(fmt.Sprint(most, " elements a transaction"), func(t *testing.T) { leavesOnlyTheBadOneOut(t, most) })
	}
}

func leavesOnlyTheBadOneOut(t *testing.T, most int) {
	t.Helper()
	fake := NewFake()
	l := NewLedger(fake)
	l.most = most
	frame := ledgerFrame(2)
	if _, err := l.Frame(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	wishes := map[string]Wanted{}
	var all []Wanted
	for i := range 20 {
		name := fmt.Sprintf("svc-%02d", i)
		w := wish(name, map[string][]state.Element{"marks": {marked(i, 1)}})
		wishes[name] = w
		all = append(all, w)
	}
	if out, err := l.Put(t.Context(), all); err != nil || out.Transactions != (len(all)+most-1)/most {
		t.Fatalf("%s, %v", out, err)
	}
	for i := range all {
		all[i].Sets = map[string][]state.Element{"marks": {marked(i, 2)}}
		if i != 7 {
			wishes[all[i].Owner] = all[i]
		}
	}
	all[7].Sets["peers"] = []state.Element{{Key: "bad"}}
	for range 2 { // and again, with the same result and no listing
		out, err := l.Put(t.Context(), all)
		if err != nil || len(out.Refused) != 1 || out.Refused[0].Owner != "svc-07" || out.Observed {
			t.Fatalf("%s, %v, %v", out, out.Refused, err)
		}
		mustEqual(t, fake, expected(frame, wishes)) // the bad one keeps what it had
	}
	all[7].Sets = map[string][]state.Element{"marks": {marked(7, 2)}}
	wishes["svc-07"] = all[7]
	if out, err := l.Put(t.Context(), all); err != nil || len(out.Refused) != 0 {
		t.Fatalf("%s, %v", out, err)
	}
	mustEqual(t, fake, expected(frame, wishes))
}

// TestLedgerGeneralFaultBlamesNobody: without rights every transaction fails, and no owner is at fault.
func TestLedgerGeneralFaultBlamesNobody(t *testing.T) {
	fake := NewFake()
	l := NewLedger(fake)
	if _, err := l.Frame(t.Context(), ledgerFrame(1)); err != nil {
		t.Fatal(err)
	}
	w := wish("a", map[string][]state.Element{"marks": {marked(1, 1)}})
	fake.RefuseNext(unix.EPERM)
	if out, err := l.Put(t.Context(), []Wanted{w}); !errors.Is(err, unix.EPERM) || !out.Empty() {
		t.Fatalf("%s, %v", out, err)
	}
	if out, err := l.Put(t.Context(), []Wanted{w}); err != nil || out.Added != 1 {
		t.Fatalf("%s, %v", out, err)
	}
}

// TestLedgerKeepsWhatWasNotReplaced: an object that took another's name, as the transaction failed, must not leave what the
// first had behind, nor come beside it.
func TestLedgerKeepsWhatWasNotReplaced(t *testing.T) {
	fake := NewFake()
	l := NewLedger(fake)
	if _, err := l.Frame(t.Context(), ledgerFrame(1)); err != nil {
		t.Fatal(err)
	}
	first := Wanted{Owner: "a", Age: 1, Sets: map[string][]state.Element{"marks": {marked(1, 1)}}}
	for _, second := range []Wanted{{Owner: "a", Age: 2}, {Owner: "a", Age: 3, Sets: map[string][]state.Element{"marks": {marked(2, 1)}}}} {
		if _, err := l.Put(t.Context(), []Wanted{first}); err != nil {
			t.Fatal(err)
		}
		fake.RefuseNext(unix.ENOBUFS)
		if _, err := l.Put(t.Context(), []Wanted{second}); !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
		if out, err := l.Put(t.Context(), []Wanted{second}); err != nil || out.Observed {
			t.Fatalf("%s, observed %t, %v", out, out.Observed, err)
		}
		mustEqual(t, fake, expected(ledgerFrame(1), map[string]Wanted{"a": second}))
	}
}

// TestLedgerTellsTwoOfOneNameApart: the kernel has taken the second of two objects of one name and kept the first.
func TestLedgerTellsTwoOfOneNameApart(t *testing.T) {
	fake := NewFake()
	l := NewLedger(fake)
	if _, err := l.Frame(t.Context(), ledgerFrame(1)); err != nil {
		t.Fatal(err)
	}
	first := Wanted{Owner: "a", Age: 1, Sets: map[string][]state.Element{"marks": {marked(1, 1)}}}
	second := Wanted{Owner: "a", Age: 2, Sets: map[string][]state.Element{"marks": {marked(2, 1)}}}
	if _, err := l.Put(t.Context(), []Wanted{first}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	fake.RefuseSome(3, unix.EINVAL) // both together, the first's end, and that element by element
	if out, err := l.Put(t.Context(), []Wanted{second}); err != nil || len(out.Refused) != 1 {
		t.Fatalf("%s, %v", out, err)
	}
	mustEqual(t, fake, expected(ledgerFrame(1), map[string]Wanted{"first": {Owner: "first", Sets: first.Sets}, "second": {Owner: "second", Sets: second.Sets}}))
	if out, err := l.Put(t.Context(), []Wanted{second}); err != nil || !out.Observed {
		t.Fatalf("%s, observed %t, %v", out, out.Observed, err)
	}
	mustEqual(t, fake, expected(ledgerFrame(1), map[string]Wanted{"a": second}))
}

// TestLedgerTellsOfConflicts: of two who want the same key differently the older one wins, and it is told.
func TestLedgerTellsOfConflicts(t *testing.T) {
	fake := NewFake()
	l := NewLedger(fake)
	if _, err := l.Frame(t.Context(), ledgerFrame(1)); err != nil {
		t.Fatal(err)
	}
	young := Wanted{Owner: "young", Age: 2, Sets: map[string][]state.Element{"marks": {marked(1, 1)}}}
	old := Wanted{Owner: "old", Age: 1, Sets: map[string][]state.Element{"marks": {marked(1, 2)}}}
	if _, err := l.Put(t.Context(), []Wanted{young, old}); err != nil {
		t.Fatal(err)
	}
	want := Conflict{Owner: "young", Winner: "old", Set: "marks", Key: "10.0.0.1"}
	if got := l.Conflicts(); len(got) != 1 || got[0] != want {
		t.Errorf("conflicts are %v, want %v", got, want)
	}
	mustEqual(t, fake, expected(ledgerFrame(1), map[string]Wanted{"young": young, "old": old}))
}

// TestPackedComesBack packs and unpacks everything that an element may have.
func TestPackedComesBack(t *testing.T) {
	lists := make([][]state.Element, 0)
	for _, s := range sampleSets() {
		lists = append(lists, state.SortElements(s.Elements))
	}
	p := pack(lists)
	for i, got := range p.elementsBySet(len(lists)) {
		if !slices.Equal(got, lists[i]) {
			t.Errorf("set %d came back as\n%v\nwant\n%v", i, got, lists[i])
		}
	}
	calls := 0
	merge(p, p, func(a, b *packedEntry) {
		calls++
		if a == nil || b == nil || a.raw != b.raw {
			t.Errorf("merging with itself differs at %v %v", a, b)
		}
	})
	if calls == 0 {
		t.Error("nothing was merged")
	}
}
