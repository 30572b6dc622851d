//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// encoder collects the messages of one transaction.
type encoder struct {
	table  string
	family byte
	msgs   []message
	// oneByOne gives each element a message of its own.
	oneByOne bool
}

var families = map[string]byte{"inet": unix.NFPROTO_INET, "ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6}

var hooks = map[state.Hook]uint32{
	state.HookPrerouting:  unix.NF_INET_PRE_ROUTING,
	state.HookInput:       unix.NF_INET_LOCAL_IN,
	state.HookForward:     unix.NF_INET_FORWARD,
	state.HookOutput:      unix.NF_INET_LOCAL_OUT,
	state.HookPostrouting: unix.NF_INET_POST_ROUTING,
}

// encode turns a change into the messages of one transaction.
func encode(c Change) ([]message, error) {
	family, ok := families[c.Family]
	if !ok {
		return nil, fmt.Errorf("unknown table family %q", c.Family)
	}
	e := &encoder{table: c.Name, family: family, oneByOne: c.OneByOne}
	if c.Drop {
		e.drop()
	}
	if c.Create {
		e.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "add table", wire.Str(unix.NFTA_TABLE_NAME, c.Name), wire.Big32(unix.NFTA_TABLE_FLAGS, 0))
	}
	e.deletions(c)
	for _, n := range c.Counters {
		e.add(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "add counter "+n, wire.Str(unix.NFTA_OBJ_TABLE, c.Name), wire.Str(unix.NFTA_OBJ_NAME, n),
			wire.Big32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER), wire.Nest(unix.NFTA_OBJ_DATA))
	}
	for _, ch := range c.Chains {
		e.chain(ch)
	}
	for _, ch := range c.Policies {
		e.add(unix.NFT_MSG_NEWCHAIN, 0, "set policy of chain "+ch.Name, wire.Str(unix.NFTA_CHAIN_TABLE, c.Name),
			wire.Str(unix.NFTA_CHAIN_NAME, ch.Name), wire.Big32(unix.NFTA_CHAIN_POLICY, policyNumber(ch)))
	}
	for i, s := range c.Sets {
		e.set(s, uint32(i+1))
	}
	for _, el := range c.Elements {
		if err := e.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add", el.Set, el.Add); err != nil {
			return nil, err
		}
	}
	for _, ch := range c.Rules {
		for _, r := range ch.Rules {
			if err := e.rule(ch.Name, r); err != nil {
				return nil, err
			}
		}
	}
	return e.msgs, nil
}

func (e *encoder) add(typ, flags uint16, what string, attrs ...wire.Attr) {
	e.msgs = append(e.msgs, message{typ: typ, flags: flags, family: e.family, what: what, data: wire.Put(nil, attrs...)})
}

// drop makes the table first, so that deleting one that does not exist is no error.
func (e *encoder) drop() {
	name := wire.Str(unix.NFTA_TABLE_NAME, e.table)
	e.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "add table to delete", name, wire.Big32(unix.NFTA_TABLE_FLAGS, 0))
	e.add(unix.NFT_MSG_DELTABLE, 0, "delete table", name)
}

func (e *encoder) deletions(c Change) {
	for _, n := range c.Flush {
		e.add(unix.NFT_MSG_DELRULE, 0, "flush chain "+n, wire.Str(unix.NFTA_RULE_TABLE, e.table), wire.Str(unix.NFTA_RULE_CHAIN, n))
	}
	for _, el := range c.Elements {
		// Encoding deletions cannot fail: verdicts are left out.
		_ = e.elements(unix.NFT_MSG_DELSETELEM, 0, "delete", el.Set, el.Delete)
	}
	for _, n := range c.DelSets {
		e.add(unix.NFT_MSG_DELSET, 0, "delete set "+n, wire.Str(unix.NFTA_SET_TABLE, e.table), wire.Str(unix.NFTA_SET_NAME, n))
	}
	for _, n := range c.DelChains {
		e.add(unix.NFT_MSG_DELCHAIN, 0, "delete chain "+n, wire.Str(unix.NFTA_CHAIN_TABLE, e.table), wire.Str(unix.NFTA_CHAIN_NAME, n))
	}
	for _, n := range c.DelCounters {
		e.add(unix.NFT_MSG_DELOBJ, 0, "delete counter "+n, wire.Str(unix.NFTA_OBJ_TABLE, e.table), wire.Str(unix.NFTA_OBJ_NAME, n),
			wire.Big32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	}
}

func policyNumber(c state.Chain) uint32 {
	if c.EffectivePolicy() == state.PolicyDrop {
		return verdictDrop
	}
	return verdictAccept
}

func (e *encoder) chain(c state.Chain) {
	attrs := []wire.Attr{wire.Str(unix.NFTA_CHAIN_TABLE, e.table), wire.Str(unix.NFTA_CHAIN_NAME, c.Name)}
	if c.IsBase() {
		attrs = append(attrs,
			wire.Nest(unix.NFTA_CHAIN_HOOK, wire.Big32(unix.NFTA_HOOK_HOOKNUM, hooks[c.Hook]), wire.Big32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))),
			wire.Big32(unix.NFTA_CHAIN_POLICY, policyNumber(c)),
			wire.Str(unix.NFTA_CHAIN_TYPE, string(c.Type)))
	}
	e.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add chain "+c.Name, attrs...)
}

// Types of user data in libnftnl's udata.h, and one of our own, which nft passes over.
const (
	udataRuleComment = 0
	udataRuleHash    = 0x57
	udataKeyOrder    = 0
	udataDataOrder   = 1
	udataSetComment  = 7
	udataElemComment = 0
	maxComment       = 127
)

func udata(b []byte, typ byte, data []byte) []byte {
	return append(append(b, typ, byte(len(data))), data...)
}

func udataString(b []byte, typ byte, s string) []byte {
	return udata(b, typ, append([]byte(s[:min(len(s), maxComment)]), 0))
}

// findUdata returns the value of a type in user data, or nil.
func findUdata(b []byte, typ byte) []byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == typ {
			return b[2 : 2+int(b[1])]
		}
		b = b[2+int(b[1]):]
	}
	return nil
}

func (e *encoder) rule(chain string, r state.ChainRule) error {
	exprs, err := wireExprs(r)
	if err != nil {
		return fmt.Errorf("chain %s: %w", chain, err)
	}
	var list []byte
	for _, x := range exprs {
		list = wire.Put(list, wire.Nest(unix.NFTA_LIST_ELEM, wire.Str(unix.NFTA_EXPR_NAME, x.name), wire.Nest(unix.NFTA_EXPR_DATA, x.data...)))
	}
	hash := hashRule(r, exprs)
	var user []byte
	if r.Comment != "" {
		user = udataString(user, udataRuleComment, r.Comment)
	}
	user = udata(user, udataRuleHash, hash[:])
	e.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, fmt.Sprintf("add rule to chain %s: %s", chain, r),
		wire.Str(unix.NFTA_RULE_TABLE, e.table), wire.Str(unix.NFTA_RULE_CHAIN, chain),
		wire.Attr{Type: unix.NFTA_RULE_EXPRESSIONS | unix.NLA_F_NESTED, Data: list}, wire.Bytes(unix.NFTA_RULE_USERDATA, user))
	return nil
}

// datatypeNumber is how nft numbers its data types (include/datatype.h), by which it prints a
// set's declaration. The kernel only keeps it.
var datatypeNumber = map[state.DataType]uint32{
	state.TypeNFProto: 2, state.TypeInteger: 4, state.TypeIPv4: 7, state.TypeIPv6: 8, state.TypeProto: 12, state.TypePort: 13,
	state.TypeICMP: 14, state.TypeMark: 19, state.TypeUID: 24, state.TypeCTState: 26, state.TypeCTDir: 27,
	state.TypeCTStatus: 28, state.TypeICMPv6: 29, state.TypePktType: 31, state.TypeAddrType: 38, state.TypeFibResult: 39,
	state.TypeIfName: 41,
}

// Constants of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	setConcat         = 0x80
	setDescConcat     = 2
	setFieldLen       = 1
	setExpr           = 0x11
	setCount          = 20
	setElemKeyEnd     = 10
	concatTypeBits    = 6
	verdictDataType   = 0xffffff00
	verdictDrop       = 0 // NF_DROP
	verdictAccept     = 1 // NF_ACCEPT
	orderHost         = 1
	orderBig          = 2
	maxElementsLength = 48 << 10 // an attribute holds 64 KiB
)

func typeNumber(types []state.DataType) uint32 {
	var n uint32
	for _, t := range types {
		n = n<<concatTypeBits | datatypeNumber[t]
	}
	return n
}

func typeLen(types []state.DataType) uint32 {
	if len(types) == 1 {
		return uint32(types[0].Size())
	}
	return uint32(4 * totalWords(types))
}

// headOf is the set's declaration as the kernel will report it.
func headOf(s state.Set) setHead {
	h := setHead{
		name: s.Name, keyType: typeNumber(s.Key), keyLen: typeLen(s.Key), maxSize: s.Size,
		timeout: uint64(s.Timeout.Milliseconds()), elementCounters: s.ElementCounters, comment: s.Comment,
	}
	for _, f := range []struct {
		on   bool
		flag uint32
	}{
		{s.Kind != state.KindSet, unix.NFT_SET_MAP},
		{s.Interval, unix.NFT_SET_INTERVAL},
		{s.Interval && len(s.Key) > 1, setConcat},
		{s.Dynamic, unix.NFT_SET_EVAL},
		{s.HasTimeout || s.Timeout > 0, unix.NFT_SET_TIMEOUT},
	} {
		if f.on {
			h.flags |= f.flag
		}
	}
	switch s.Kind {
	case state.KindMap:
		h.dataType, h.dataLen = typeNumber(s.Data), typeLen(s.Data)
	case state.KindVMap:
		h.dataType = verdictDataType
	case state.KindSet:
	}
	return h
}

func (e *encoder) set(s state.Set, id uint32) {
	h := headOf(s)
	attrs := []wire.Attr{
		wire.Str(unix.NFTA_SET_TABLE, e.table), wire.Str(unix.NFTA_SET_NAME, s.Name), wire.Big32(unix.NFTA_SET_FLAGS, h.flags),
		wire.Big32(unix.NFTA_SET_KEY_TYPE, h.keyType), wire.Big32(unix.NFTA_SET_KEY_LEN, h.keyLen), wire.Big32(unix.NFTA_SET_ID, id),
	}
	if h.dataType != 0 {
		attrs = append(attrs, wire.Big32(unix.NFTA_SET_DATA_TYPE, h.dataType))
		if h.dataLen != 0 {
			attrs = append(attrs, wire.Big32(unix.NFTA_SET_DATA_LEN, h.dataLen))
		}
	}
	if h.timeout > 0 {
		attrs = append(attrs, wire.Big64(unix.NFTA_SET_TIMEOUT, h.timeout))
	}
	if desc := setDescription(s, h); len(desc) > 0 {
		attrs = append(attrs, wire.Nest(unix.NFTA_SET_DESC, desc...))
	}
	if s.ElementCounters {
		attrs = append(attrs, wire.Nest(setExpr, wire.Str(unix.NFTA_EXPR_NAME, "counter"), wire.Nest(unix.NFTA_EXPR_DATA)))
	}
	attrs = append(attrs, wire.Bytes(unix.NFTA_SET_USERDATA, setUdata(s)))
	e.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add set "+s.Name, attrs...)
}

func setDescription(s state.Set, h setHead) []wire.Attr {
	var desc []wire.Attr
	if h.maxSize > 0 {
		desc = append(desc, wire.Big32(unix.NFTA_SET_DESC_SIZE, h.maxSize))
	}
	if h.flags&setConcat != 0 {
		var parts []wire.Attr
		for _, t := range s.Key {
			parts = append(parts, wire.Nest(unix.NFTA_LIST_ELEM, wire.Big32(setFieldLen, uint32(t.Size()))))
		}
		desc = append(desc, wire.Nest(setDescConcat, parts...))
	}
	return desc
}

func setUdata(s state.Set) []byte {
	order := func(types []state.DataType) []byte {
		n := uint32(orderBig)
		if len(types) == 1 && types[0].HostOrder() {
			n = orderHost
		}
		return binary.NativeEndian.AppendUint32(nil, n)
	}
	user := udata(nil, udataKeyOrder, order(s.Key))
	if s.Kind == state.KindMap {
		user = udata(user, udataDataOrder, order(s.Data))
	}
	if s.Comment != "" {
		user = udataString(user, udataSetComment, s.Comment)
	}
	return user
}

// elements sends elements in messages of bounded length.
func (e *encoder) elements(typ, flags uint16, verb string, s state.Set, elements []state.Element) error {
	var list []byte
	first := 0
	for i, el := range elements {
		var err error
		if list, err = appendElement(list, s, el, typ == unix.NFT_MSG_NEWSETELEM); err != nil {
			return fmt.Errorf("element %s of %s: %w", s.FormatElement(el), s.Name, err)
		}
		if len(list) < maxElementsLength && i < len(elements)-1 && !e.oneByOne {
			continue
		}
		e.add(typ, flags, "", wire.Str(unix.NFTA_SET_ELEM_LIST_TABLE, e.table), wire.Str(unix.NFTA_SET_ELEM_LIST_SET, s.Name),
			wire.Attr{Type: unix.NFTA_SET_ELEM_LIST_ELEMENTS | unix.NLA_F_NESTED, Data: list})
		count := i + 1 - first
		e.msgs[len(e.msgs)-1].which = func() string {
			if count > 1 {
				return fmt.Sprintf("%s %d elements of %s, the last %s", verb, count, s.Name, s.FormatElement(el))
			}
			return fmt.Sprintf("%s element %s of %s", verb, s.FormatElement(el), s.Name)
		}
		list, first = list[:0], i+1
	}
	return nil
}
