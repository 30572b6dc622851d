//go:build linux

package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// observe lists a table. It does not see a change that happens meanwhile: the caller compares the
// generation before and after.
func (c *conn) observe(family, name string) (Observed, error) {
	o := Observed{Family: family, Name: name}
	fam := families[family]
	tables, err := c.query(unix.NFT_MSG_GETTABLE, fam, false, wire.Str(unix.NFTA_TABLE_NAME, name))
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read table: %w", err)
	}
	o.Exists = true
	for _, t := range tables {
		o.Dormant = wire.BigUint32(wire.Find(payload(t), unix.NFTA_TABLE_FLAGS))&unix.NFT_TABLE_F_DORMANT != 0
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

// generation is the number of transactions in this network namespace that have changed something.
func (c *conn) generation() (uint32, error) {
	replies, err := c.query(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, false)
	if err != nil {
		return 0, fmt.Errorf("read generation of nftables: %w", err)
	}
	for _, r := range replies {
		return wire.BigUint32(wire.Find(payload(r), unix.NFTA_GEN_ID)), nil
	}
	return 0, errors.New("read generation of nftables: no reply")
}

// Counter is what a named counter has counted.
type Counter struct{ Packets, Bytes uint64 }

func (c *conn) counters(family, table string) (map[string]Counter, error) {
	replies, err := c.query(unix.NFT_MSG_GETOBJ, families[family], true,
		wire.Str(unix.NFTA_OBJ_TABLE, table), wire.Big32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	if err != nil {
		return nil, fmt.Errorf("list counters: %w", err)
	}
	out := map[string]Counter{}
	for _, r := range replies {
		attrs := payload(r)
		data := wire.Parse(wire.Find(attrs, unix.NFTA_OBJ_DATA))
		if wire.String(wire.Find(attrs, unix.NFTA_OBJ_TABLE)) != table || wire.BigUint32(wire.Find(attrs, unix.NFTA_OBJ_TYPE)) != unix.NFT_OBJECT_COUNTER {
			continue
		}
		out[wire.String(wire.Find(attrs, unix.NFTA_OBJ_NAME))] = Counter{
			Packets: wire.BigUint64(wire.Find(data, unix.NFTA_COUNTER_PACKETS)), Bytes: wire.BigUint64(wire.Find(data, unix.NFTA_COUNTER_BYTES)),
		}
	}
	return out, nil
}

func (c *conn) chains(family byte, table string) ([]ObservedChain, error) {
	// The kernel lists the chains of a whole family; those of other tables are passed over unread.
	replies, err := c.query(unix.NFT_MSG_GETCHAIN, family, true, wire.Str(unix.NFTA_CHAIN_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var out []ObservedChain
	index := map[string]int{}
	for _, r := range replies {
		attrs := payload(r)
		if wire.String(wire.Find(attrs, unix.NFTA_CHAIN_TABLE)) != table {
			continue
		}
		ch := decodeChain(attrs)
		index[ch.Name] = len(out)
		out = append(out, ObservedChain{Chain: ch})
	}
	replies, err = c.query(unix.NFT_MSG_GETRULE, family, true, wire.Str(unix.NFTA_RULE_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for _, r := range replies {
		attrs := payload(r)
		if i, ok := index[wire.String(wire.Find(attrs, unix.NFTA_RULE_CHAIN))]; ok && wire.String(wire.Find(attrs, unix.NFTA_RULE_TABLE)) == table {
			out[i].Rules = append(out[i].Rules, decodeRule(attrs))
		}
	}
	return out, nil
}

func decodeChain(attrs []wire.Attr) state.Chain {
	ch := state.Chain{Name: wire.String(wire.Find(attrs, unix.NFTA_CHAIN_NAME))}
	hook := wire.Parse(wire.Find(attrs, unix.NFTA_CHAIN_HOOK))
	if hook == nil {
		return ch
	}
	number := wire.BigUint32(wire.Find(hook, unix.NFTA_HOOK_HOOKNUM))
	for name, n := range hooks {
		if n == number {
			ch.Hook = name
		}
	}
	ch.Priority = int32(wire.BigUint32(wire.Find(hook, unix.NFTA_HOOK_PRIORITY)))
	ch.Type = state.ChainType(wire.String(wire.Find(attrs, unix.NFTA_CHAIN_TYPE)))
	ch.Policy = state.PolicyAccept
	if wire.BigUint32(wire.Find(attrs, unix.NFTA_CHAIN_POLICY)) == verdictDrop {
		ch.Policy = state.PolicyDrop
	}
	return ch
}

func decodeRule(attrs []wire.Attr) observedRule {
	var r observedRule
	if h := findUdata(wire.Find(attrs, unix.NFTA_RULE_USERDATA), udataRuleHash); len(h) == hashSize {
		r.hash = ruleHash(h)
	}
	for _, e := range wire.Parse(wire.Find(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
		r.exprs = append(r.exprs, parseExpr(e.Data))
	}
	return r
}

func (c *conn) sets(family byte, table string) ([]ObservedSet, error) {
	replies, err := c.query(unix.NFT_MSG_GETSET, family, true, wire.Str(unix.NFTA_SET_TABLE, table))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var out []ObservedSet
	for _, r := range replies {
		attrs := payload(r)
		flags := wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_FLAGS))
		if wire.String(wire.Find(attrs, unix.NFTA_SET_TABLE)) != table || flags&unix.NFT_SET_ANONYMOUS != 0 {
			continue // anonymous ones live and die with their rule
		}
		s := ObservedSet{Head: decodeSet(attrs)}
		if s.Head.flags&unix.NFT_SET_EVAL == 0 {
			if s.Elements, err = c.elements(family, table, s.Head); err != nil {
				return nil, err
			}
			// The kernel leaves elements out of a listing while it resizes the set's hash table.
			// From Linux 6.16 it tells how many there are.
			if count := wire.Find(attrs, setCount); s.Head.flags&unix.NFT_SET_INTERVAL == 0 && len(s.Elements) < int(wire.BigUint32(count)) {
				return nil, wire.ErrInterrupted
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func decodeSet(attrs []wire.Attr) setHead {
	h := setHead{
		name:     wire.String(wire.Find(attrs, unix.NFTA_SET_NAME)),
		flags:    wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_FLAGS)),
		keyType:  wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_KEY_TYPE)),
		keyLen:   wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_KEY_LEN)),
		dataType: wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_DATA_TYPE)),
		dataLen:  wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_DATA_LEN)),
		timeout:  wire.BigUint64(wire.Find(attrs, unix.NFTA_SET_TIMEOUT)),
		maxSize:  wire.BigUint32(wire.Find(wire.Parse(wire.Find(attrs, unix.NFTA_SET_DESC)), unix.NFTA_SET_DESC_SIZE)),
		comment:  wire.String(findUdata(wire.Find(attrs, unix.NFTA_SET_USERDATA), udataSetComment)),
	}
	if h.dataType == verdictDataType || h.flags&unix.NFT_SET_MAP == 0 {
		h.dataLen = 0
	}
	h.elementCounters = wire.String(wire.Find(wire.Parse(wire.Find(attrs, setExpr)), unix.NFTA_EXPR_NAME)) == "counter"
	return h
}

func (c *conn) elements(family byte, table string, h setHead) ([]state.Element, error) {
	replies, err := c.query(unix.NFT_MSG_GETSETELEM, family, true,
		wire.Str(unix.NFTA_SET_ELEM_LIST_TABLE, table), wire.Str(unix.NFTA_SET_ELEM_LIST_SET, h.name))
	if err != nil {
		return nil, fmt.Errorf("list elements of %s: %w", h.name, err)
	}
	var entries []entry
	for _, r := range replies {
		for _, e := range wire.Parse(wire.Find(payload(r), unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			entries = append(entries, decodeEntry(h, wire.Parse(e.Data)))
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

func decodeEntry(h setHead, attrs []wire.Attr) entry {
	value := func(typ uint16) state.Value {
		return state.Value(wire.Find(wire.Parse(wire.Find(attrs, typ)), unix.NFTA_DATA_VALUE))
	}
	e := entry{end: wire.BigUint32(wire.Find(attrs, unix.NFTA_SET_ELEM_FLAGS))&unix.NFT_SET_ELEM_INTERVAL_END != 0}
	e.Key, e.KeyEnd = value(unix.NFTA_SET_ELEM_KEY), value(setElemKeyEnd)
	if e.KeyEnd == e.Key {
		e.KeyEnd = ""
	}
	e.Comment = wire.String(findUdata(wire.Find(attrs, unix.NFTA_SET_ELEM_USERDATA), udataElemComment))
	switch {
	case h.dataType == verdictDataType:
		e.Verdict = decodeVerdict(wire.Parse(wire.Find(wire.Parse(wire.Find(attrs, unix.NFTA_SET_ELEM_DATA)), unix.NFTA_DATA_VERDICT)))
	case h.flags&unix.NFT_SET_MAP != 0:
		e.Data = value(unix.NFTA_SET_ELEM_DATA)
	}
	return e
}

func decodeVerdict(attrs []wire.Attr) state.Verdict {
	kinds := map[expr.VerdictKind]state.VerdictKind{
		expr.VerdictAccept: state.VerdictAccept, expr.VerdictDrop: state.VerdictDrop, expr.VerdictReturn: state.VerdictReturn,
		expr.VerdictJump: state.VerdictJump, expr.VerdictGoto: state.VerdictGoto,
	}
	code := expr.VerdictKind(int32(wire.BigUint32(wire.Find(attrs, unix.NFTA_VERDICT_CODE))))
	return state.Verdict{Kind: kinds[code], Chain: wire.String(wire.Find(attrs, unix.NFTA_VERDICT_CHAIN))}
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
