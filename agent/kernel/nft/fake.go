//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// Fake is a table in memory that obeys the kernel's rules: a transaction is all or nothing, a
// reference to a chain, set or counter that does not exist is refused, so is deleting what is
// still referred to, an element that is there with other data, and ranges that overlap.
type Fake struct {
	mu     sync.Mutex
	exists bool
	table  state.Table
	// refuse, when set, is returned by an Apply, which then changes nothing: the next, or the one after as many as pass; and
	// by more after it.
	refuse     error
	pass, more int
	// applied counts transactions.
	applied int
}

var _ Table = (*Fake)(nil)

// NewFake returns an empty network namespace.
func NewFake() *Fake { return &Fake{} }

// RefuseNext makes the next transaction fail with err.
func (f *Fake) RefuseNext(err error) { f.RefuseAfter(0, err) }

// RefuseAfter makes a transaction fail with err, after as many as pass that are carried out.
func (f *Fake) RefuseAfter(pass int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse, f.pass, f.more = err, pass, 0
}

// RefuseSome makes as many transactions fail with err.
func (f *Fake) RefuseSome(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse, f.pass, f.more = err, 0, n-1
}

// Applied is the number of transactions carried out.
func (f *Fake) Applied() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// Table returns what is in the table, for a look by tests of other packages.
func (f *Fake) Table() (state.Table, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return clone(f.table), f.exists
}

// Observe lists the table.
func (f *Fake) Observe(ctx context.Context) (Observed, error) {
	if err := ctx.Err(); err != nil {
		return Observed{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.exists {
		return Observed{Family: f.table.Family, Name: f.table.Name}, nil
	}
	return observedFrom(f.table), nil
}

// Apply carries out a change, or returns an error and changes nothing.
func (f *Fake) Apply(ctx context.Context, c Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Empty() {
		return nil
	}
	if f.pass--; f.refuse != nil && f.pass < 0 {
		err := f.refuse
		if f.more--; f.more < 0 {
			f.refuse = nil
		}
		return err
	}
	if _, err := encode(c); err != nil {
		return err
	}
	tx := &transaction{table: clone(f.table), exists: f.exists}
	if err := tx.run(c); err != nil {
		return fmt.Errorf("change table %s %s: %w", c.Family, c.Name, err)
	}
	f.table, f.exists = tx.table, tx.exists
	f.applied++
	return nil
}

// Ensure observes the table and makes it as wanted.
func (f *Fake) Ensure(ctx context.Context, want state.Table) (Change, error) {
	return ensure(ctx, f, want)
}

// Update is Ensure: listing costs the fake nothing.
func (f *Fake) Update(ctx context.Context, want state.Table) (Change, error) {
	return ensure(ctx, f, want)
}

// AddElements adds to sets that the table has.
func (f *Fake) AddElements(ctx context.Context, sets []state.Set) error {
	return f.Apply(ctx, addition("inet", state.TableName, sets))
}

// Cleanup deletes the table.
func (f *Fake) Cleanup(ctx context.Context) error {
	return f.Apply(ctx, Delete("inet", state.TableName))
}

// Counters are all at zero, since no packet passes.
func (f *Fake) Counters(context.Context) (map[string]Counter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]Counter{}
	for _, n := range f.table.Counters {
		out[n] = Counter{}
	}
	return out, nil
}

func clone(t state.Table) state.Table {
	t.Counters = slices.Clone(t.Counters)
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		t.Sets[i].Elements = slices.Clone(t.Sets[i].Elements)
	}
	t.Chains = slices.Clone(t.Chains)
	for i := range t.Chains {
		t.Chains[i].Rules = slices.Clone(t.Chains[i].Rules)
	}
	return t
}

// transaction is a change under way, on a copy.
type transaction struct {
	table  state.Table
	exists bool
}

// run carries out the steps in the kernel's order; references are judged at the end, since within
// a transaction only what it leads to counts.
func (tx *transaction) run(c Change) error {
	if c.Drop {
		tx.table, tx.exists = state.Table{Family: c.Family, Name: c.Name}, false
	}
	if c.Create {
		tx.exists, tx.table.Family, tx.table.Name = true, c.Family, c.Name
	}
	if !tx.exists {
		if c.Drop {
			return nil
		}
		return fmt.Errorf("no table: %w", unix.ENOENT)
	}
	for _, step := range []func(Change) error{tx.flush, tx.deleteElements, tx.deleteNamed, tx.addNamed, tx.addElements, tx.addRules} {
		if err := step(c); err != nil {
			return err
		}
	}
	return tx.check()
}

func (tx *transaction) chain(name string) *state.Chain {
	i := slices.IndexFunc(tx.table.Chains, func(c state.Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &tx.table.Chains[i]
}

func (tx *transaction) set(name string) *state.Set {
	i := slices.IndexFunc(tx.table.Sets, func(s state.Set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &tx.table.Sets[i]
}

func (tx *transaction) flush(c Change) error {
	for _, n := range c.Flush {
		ch := tx.chain(n)
		if ch == nil {
			return fmt.Errorf("flush chain %s: %w", n, unix.ENOENT)
		}
		ch.Rules = nil
	}
	return nil
}

func (tx *transaction) deleteElements(c Change) error {
	for _, e := range c.Elements {
		for _, el := range e.Delete {
			s := tx.set(e.Set.Name)
			i := -1
			if s != nil {
				i = slices.IndexFunc(s.Elements, func(x state.Element) bool { return x.Key == el.Key && x.KeyEnd == el.KeyEnd })
			}
			if i < 0 {
				return fmt.Errorf("delete element of %s: %w", e.Set.Name, unix.ENOENT)
			}
			s.Elements = slices.Delete(s.Elements, i, i+1)
		}
	}
	return nil
}

// deleteNamed deletes sets, chains and counters that nothing refers to any more.
func (tx *transaction) deleteNamed(c Change) error {
	for _, n := range c.DelSets {
		if tx.set(n) == nil {
			return fmt.Errorf("delete set %s: %w", n, unix.ENOENT)
		}
		if tx.refersTo(n, "", "") {
			return fmt.Errorf("delete set %s: %w", n, unix.EBUSY)
		}
		tx.table.Sets = slices.DeleteFunc(tx.table.Sets, func(s state.Set) bool { return s.Name == n })
	}
	for _, n := range c.DelChains {
		if tx.chain(n) == nil {
			return fmt.Errorf("delete chain %s: %w", n, unix.ENOENT)
		}
		if tx.refersTo("", n, "") {
			return fmt.Errorf("delete chain %s: %w", n, unix.EBUSY)
		}
		tx.table.Chains = slices.DeleteFunc(tx.table.Chains, func(ch state.Chain) bool { return ch.Name == n })
	}
	for _, n := range c.DelCounters {
		if !slices.Contains(tx.table.Counters, n) {
			return fmt.Errorf("delete counter %s: %w", n, unix.ENOENT)
		}
		if tx.refersTo("", "", n) {
			return fmt.Errorf("delete counter %s: %w", n, unix.EBUSY)
		}
		tx.table.Counters = slices.DeleteFunc(tx.table.Counters, func(x string) bool { return x == n })
	}
	return nil
}

func (tx *transaction) addNamed(c Change) error {
	for _, n := range c.Counters {
		if !slices.Contains(tx.table.Counters, n) {
			tx.table.Counters = append(tx.table.Counters, n)
		}
	}
	for _, ch := range c.Chains {
		if tx.chain(ch.Name) != nil {
			return fmt.Errorf("add chain %s: %w", ch.Name, unix.EEXIST)
		}
		ch.Rules = nil
		tx.table.Chains = append(tx.table.Chains, ch)
	}
	for _, p := range c.Policies {
		ch := tx.chain(p.Name)
		if ch == nil {
			return fmt.Errorf("set policy of chain %s: %w", p.Name, unix.ENOENT)
		}
		ch.Policy = p.Policy
	}
	for _, s := range c.Sets {
		if tx.set(s.Name) != nil {
			return fmt.Errorf("add set %s: %w", s.Name, unix.EEXIST)
		}
		s.Elements = nil
		tx.table.Sets = append(tx.table.Sets, s)
	}
	return nil
}

func (tx *transaction) addElements(c Change) error {
	for _, e := range c.Elements {
		s := tx.set(e.Set.Name)
		if s == nil {
			return fmt.Errorf("add elements of %s: %w", e.Set.Name, unix.ENOENT)
		}
		for _, el := range e.Add {
			if err := addElement(s, el); err != nil {
				return fmt.Errorf("add element %s of %s: %w", s.FormatElement(el), s.Name, err)
			}
		}
	}
	return nil
}

func addElement(s *state.Set, el state.Element) error {
	end := func(e state.Element) state.Value {
		if e.KeyEnd == "" {
			return e.Key
		}
		return e.KeyEnd
	}
	for _, x := range s.Elements {
		if x == el {
			return nil
		}
		if x.Key == el.Key && x.KeyEnd == el.KeyEnd {
			return unix.EEXIST // there with other data
		}
		if s.Interval && len(s.Key) == 1 && el.Key <= end(x) && x.Key <= end(el) {
			return unix.EEXIST // ranges overlap
		}
	}
	s.Elements = append(s.Elements, el)
	return nil
}

func (tx *transaction) addRules(c Change) error {
	for _, r := range c.Rules {
		ch := tx.chain(r.Name)
		if ch == nil {
			return fmt.Errorf("add rule to chain %s: %w", r.Name, unix.ENOENT)
		}
		ch.Rules = append(ch.Rules, r.Rules...)
	}
	return nil
}

// refersTo tells whether a rule or an element refers to the set, chain or counter of that name.
func (tx *transaction) refersTo(set, chain, counter string) bool {
	for _, ch := range tx.table.Chains {
		for _, r := range ch.Rules {
			for _, st := range r.Statements {
				s, c := references(st)
				count, _ := st.(state.Count)
				if (set != "" && s == set) || (chain != "" && c == chain) || (counter != "" && count.Name == counter) {
					return true
				}
			}
		}
	}
	for _, s := range tx.table.Sets {
		for _, el := range s.Elements {
			if chain != "" && el.Verdict.Chain == chain {
				return true
			}
		}
	}
	return false
}

// check looks for references to what does not exist.
func (tx *transaction) check() error {
	var errs []error
	missing := func(kind, name string, there bool) {
		if name != "" && !there {
			errs = append(errs, fmt.Errorf("%s %s: %w", kind, name, unix.ENOENT))
		}
	}
	for _, ch := range tx.table.Chains {
		for _, r := range ch.Rules {
			for _, st := range r.Statements {
				set, chain := references(st)
				missing("set", set, tx.set(set) != nil)
				missing("chain", chain, tx.chain(chain) != nil)
				count, _ := st.(state.Count)
				missing("counter", count.Name, slices.Contains(tx.table.Counters, count.Name))
			}
		}
	}
	for _, s := range tx.table.Sets {
		for _, el := range s.Elements {
			missing("chain", el.Verdict.Chain, tx.chain(el.Verdict.Chain) != nil)
		}
	}
	return errors.Join(errs...)
}
