//go:build linux

package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// observe lists a table. It does not see a change that happens meanwhile: the caller compares the
// generation before and after.
func (c *conn) observe(family, name string) (Observed, error) {
	o := Observed{Family: family, Name: name}
	fam := families[family]
	tables, err := c.query(unix.NFT_MSG_GETTABLE, fam, false, str(unix.NFTA_TABLE_NAME, name))
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read table: %w", err)
	}
	o.Exists = true
	for _, t := range tables {
		o.Dormant = asUint32(find(parse(t[4:]), unix.NFTA_TABLE_FLAGS))&unix.NFT_TABLE_F_DORMANT != 0
	}
	counters, err := c.counters(family, name)
	if err != nil {
		return o, err
	}
	for n := range counters {
		o.Counters = append(o.Counters, n)
	}
	if o.Chains, err = c.chains(fam, name); err != nil {
		return o, err
	}
	if o.Sets, err = c.sets(fam, name); err != nil {
		return o, err
	}
	return o.sorted(), nil
}

// generation is the number of transactions that the kernel has seen in this network namespace.
func (c *conn) generation() (uint32, error) {
	replies, err := c.query(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, false)
	if err != nil {
		return 0, fmt.Errorf("read generation of nftables: %w", err)
	}
	for _, r := range replies {
		return asUint32(find(parse(r[4:]), unix.NFTA_GEN_ID)), nil
	}
	return 0, errors.New("read generation of nftables: no reply")
}

// Counter is what a named counter has counted.
type Counter struct{ Packets, Bytes uint64 }

func (c *conn) counters(family, table string) (map[string]Counter, error) {
	replies, err := c.query(unix.NFT_MSG_GETOBJ, families[family], true,
		str(unix.NFTA_OBJ_TABLE, table), u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	if err != nil {
		return nil, fmt.Errorf("list counters: %w", err)
	}
	out := map[string]Counter{}
	for _, r := range replies {
		attrs := parse(r[4:])
		data := parse(find(attrs, unix.NFTA_OBJ_DATA))
		if asString(find(attrs, unix.NFTA_OBJ_TABLE)) != table || asUint32(find(attrs, unix.NFTA_OBJ_TYPE)) != unix.NFT_OBJECT_COUNTER {
			continue
		}
		out[asString(find(attrs, unix.NFTA_OBJ_NAME))] = Counter{
			Packets: asUint64(find(data, unix.NFTA_COUNTER_PACKETS)), Bytes: asUint64(find(data, unix.NFTA_COUNTER_BYTES)),
		}
	}
	return out, nil
}

func (c *conn) chains(family byte, table string) ([]ObservedChain, error) {
	// The kernel lists the chains of a whole family; those of other tables are passed over unread.
	replies, err := c.query(unix.NFT_MSG_GETCHAIN, family, true, str(unix.NFTA_CHAIN_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []ObservedChain
	index := map[string]int{}
	for _, r := range replies {
		attrs := parse(r[4:])
		if asString(find(attrs, unix.NFTA_CHAIN_TABLE)) != table {
			continue
		}
		ch := decodeChain(attrs)
		index[ch.Name] = len(out)
		out = append(out, ObservedChain{Chain: ch})
	}
	replies, err = c.query(unix.NFT_MSG_GETRULE, family, true, str(unix.NFTA_RULE_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for _, r := range replies {
		attrs := parse(r[4:])
		if i, ok := index[asString(find(attrs, unix.NFTA_RULE_CHAIN))]; ok && asString(find(attrs, unix.NFTA_RULE_TABLE)) == table {
			out[i].Rules = append(out[i].Rules, decodeRule(attrs))
		}
	}
	return out, nil
}

func decodeChain(attrs []attr) state.Chain {
	ch := state.Chain{Name: asString(find(attrs, unix.NFTA_CHAIN_NAME))}
	hook := parse(find(attrs, unix.NFTA_CHAIN_HOOK))
	if hook == nil {
		return ch
	}
	number := asUint32(find(hook, unix.NFTA_HOOK_HOOKNUM))
	for name, n := range hooks {
		if n == number {
			ch.Hook = name
		}
	}
	ch.Priority = int32(asUint32(find(hook, unix.NFTA_HOOK_PRIORITY)))
	ch.Type = state.ChainType(asString(find(attrs, unix.NFTA_CHAIN_TYPE)))
	ch.Policy = state.PolicyAccept
	if asUint32(find(attrs, unix.NFTA_CHAIN_POLICY)) == verdictDrop {
		ch.Policy = state.PolicyDrop
	}
	return ch
}

func decodeRule(attrs []attr) observedRule {
	var r observedRule
	if h := findUdata(find(attrs, unix.NFTA_RULE_USERDATA), udataRuleHash); len(h) == hashSize {
		r.hash = ruleHash(h)
	}
	for _, e := range parse(find(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
		r.exprs = append(r.exprs, parseExpr(e.data))
	}
	return r
}

func (c *conn) sets(family byte, table string) ([]ObservedSet, error) {
	replies, err := c.query(unix.NFT_MSG_GETSET, family, true, str(unix.NFTA_SET_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var out []ObservedSet
	for _, r := range replies {
		attrs := parse(r[4:])
		flags := asUint32(find(attrs, unix.NFTA_SET_FLAGS))
		if asString(find(attrs, unix.NFTA_SET_TABLE)) != table || flags&unix.NFT_SET_ANONYMOUS != 0 {
			continue // anonymous ones live and die with their rule
		}
		s := ObservedSet{Head: decodeSet(attrs)}
		if s.Head.flags&unix.NFT_SET_EVAL == 0 {
			if s.Elements, err = c.elements(family, table, s.Head); err != nil {
				return nil, err
			}
			// The kernel leaves elements out of a listing while it resizes the set's hash table.
			// From Linux 6.16 it tells how many there are.
			if count := find(attrs, setCount); s.Head.flags&unix.NFT_SET_INTERVAL == 0 && len(s.Elements) < int(asUint32(count)) {
				return nil, errInterrupted
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func decodeSet(attrs []attr) setHead {
	h := setHead{
		name:     asString(find(attrs, unix.NFTA_SET_NAME)),
		flags:    asUint32(find(attrs, unix.NFTA_SET_FLAGS)),
		keyType:  asUint32(find(attrs, unix.NFTA_SET_KEY_TYPE)),
		keyLen:   asUint32(find(attrs, unix.NFTA_SET_KEY_LEN)),
		dataType: asUint32(find(attrs, unix.NFTA_SET_DATA_TYPE)),
		dataLen:  asUint32(find(attrs, unix.NFTA_SET_DATA_LEN)),
		timeout:  asUint64(find(attrs, unix.NFTA_SET_TIMEOUT)),
		maxSize:  asUint32(find(parse(find(attrs, unix.NFTA_SET_DESC)), unix.NFTA_SET_DESC_SIZE)),
		comment:  asString(findUdata(find(attrs, unix.NFTA_SET_USERDATA), udataSetComment)),
	}
	if h.dataType == verdictDataType || h.flags&unix.NFT_SET_MAP == 0 {
		h.dataLen = 0
	}
	h.elementCounters = asString(find(parse(find(attrs, setExpr)), unix.NFTA_EXPR_NAME)) == "counter"
	return h
}

func (c *conn) elements(family byte, table string, h setHead) ([]state.Element, error) {
	replies, err := c.query(unix.NFT_MSG_GETSETELEM, family, true,
		str(unix.NFTA_SET_ELEM_LIST_TABLE, table), str(unix.NFTA_SET_ELEM_LIST_SET, h.name))
	if err != nil {
		return nil, fmt.Errorf("list elements of %s: %w", h.name, err)
	}
	var entries []entry
	for _, r := range replies {
		for _, e := range parse(find(parse(r[4:]), unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			entries = append(entries, decodeEntry(h, parse(e.data)))
		}
	}
	var out []state.Element
	if h.flags&unix.NFT_SET_INTERVAL != 0 && h.flags&setConcat == 0 {
		out = joinRanges(entries)
	} else {
		for _, e := range entries {
			out = append(out, e.Element)
		}
	}
	return state.SortElements(out), nil
}

// entry is one entry of the kernel's list of elements.
type entry struct {
	state.Element
	end bool // the first value behind a range
}

func decodeEntry(h setHead, attrs []attr) entry {
	value := func(typ uint16) state.Value { return state.Value(find(parse(find(attrs, typ)), unix.NFTA_DATA_VALUE)) }
	e := entry{end: asUint32(find(attrs, unix.NFTA_SET_ELEM_FLAGS))&unix.NFT_SET_ELEM_INTERVAL_END != 0}
	e.Key, e.KeyEnd = value(unix.NFTA_SET_ELEM_KEY), value(setElemKeyEnd)
	if e.KeyEnd == e.Key {
		e.KeyEnd = ""
	}
	e.Comment = asString(findUdata(find(attrs, unix.NFTA_SET_ELEM_USERDATA), udataElemComment))
	switch {
	case h.dataType == verdictDataType:
		e.Verdict = decodeVerdict(parse(find(parse(find(attrs, unix.NFTA_SET_ELEM_DATA)), unix.NFTA_DATA_VERDICT)))
	case h.flags&unix.NFT_SET_MAP != 0:
		e.Data = value(unix.NFTA_SET_ELEM_DATA)
	}
	return e
}

func decodeVerdict(attrs []attr) state.Verdict {
	kinds := map[expr.VerdictKind]state.VerdictKind{
		expr.VerdictAccept: state.VerdictAccept, expr.VerdictDrop: state.VerdictDrop, expr.VerdictReturn: state.VerdictReturn,
		expr.VerdictJump: state.VerdictJump, expr.VerdictGoto: state.VerdictGoto,
	}
	code := expr.VerdictKind(int32(asUint32(find(attrs, unix.NFTA_VERDICT_CODE))))
	return state.Verdict{Kind: kinds[code], Chain: asString(find(attrs, unix.NFTA_VERDICT_CHAIN))}
}

// joinRanges makes ranges of beginnings and ends. Where two ranges touch, the end of the one
// stands before the beginning of the next.
func joinRanges(entries []entry) []state.Element {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(endFirst(a), endFirst(b)))
	})
	var out []state.Element
	open := false
	closeAt := func(last state.Value) {
		if el := &out[len(out)-1]; last != el.Key {
			el.KeyEnd = last
		}
		open = false
	}
	for _, e := range entries {
		if e.end {
			if last, ok := before(e.Key); ok && open {
				closeAt(last)
			}
			continue
		}
		out = append(out, e.Element)
		open = true
	}
	if open { // to the highest value there is
		last := make([]byte, len(out[len(out)-1].Key))
		for i := range last {
			last[i] = 0xff
		}
		closeAt(state.Value(last))
	}
	return out
}

func endFirst(e entry) int {
	if e.end {
		return 0
	}
	return 1
}
