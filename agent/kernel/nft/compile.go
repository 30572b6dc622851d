//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// compiler turns one rule's statements into the kernel's expressions, left to right. It adds the
// conditions that a field of a header stands on (an IPv4 address only in IPv4 packets), each once.
type compiler struct {
	out     []expr.Any
	nfproto state.Value
	l4proto state.Value
}

// compile gives the expressions of a rule.
func compile(r state.ChainRule) ([]expr.Any, error) {
	c := &compiler{}
	for _, s := range r.Statements {
		if err := c.statement(s); err != nil {
			return nil, fmt.Errorf("compile %q: %w", s, err)
		}
	}
	return c.out, nil
}

func (c *compiler) emit(e ...expr.Any) { c.out = append(c.out, e...) }

// register names the n-th 32-bit register as the kernel does when it lists a rule.
func register(n int) uint32 {
	if n%4 == 0 {
		return uint32(unix.NFT_REG_1 + n/4)
	}
	return uint32(unix.NFT_REG32_00 + n)
}

// words is the number of 32-bit registers that a value of a type takes.
func words(t state.DataType) int { return (t.Size() + 3) / 4 }

func totalWords(types []state.DataType) int {
	n := 0
	for _, t := range types {
		n += words(t)
	}
	return n
}

// maxWords is the number of 32-bit registers (NFT_REG32_00 to NFT_REG32_15).
const maxWords = 16

// loadAll loads fields into registers one after the other, beginning at the first.
func (c *compiler) loadAll(fields []state.Field) error {
	if len(fields) == 0 {
		return fmt.Errorf("no fields")
	}
	n := 0
	for _, f := range fields {
		c.require(f)
	}
	for _, f := range fields {
		if n+words(f.Type()) > maxWords {
			return fmt.Errorf("key longer than %d bytes", maxWords*4)
		}
		if err := c.load(f, register(n)); err != nil {
			return err
		}
		n += words(f.Type())
	}
	return nil
}

func (c *compiler) statement(s state.Statement) error {
	switch s := s.(type) {
	case state.Cmp:
		return c.compare(s)
	case state.InPrefix:
		return c.prefix(s)
	case state.Masked:
		return c.masked(s.Field, s.Not, binary.NativeEndian.AppendUint32(nil, s.Mask), binary.NativeEndian.AppendUint32(nil, s.Value))
	case state.CTState:
		return c.bits(state.FieldCTState, s.Not, uint32(s.States))
	case state.CTStatus:
		return c.bits(state.FieldCTStatus, s.Not, uint32(s.Status))
	case state.TCPFlags:
		c.tcpFlags(s)
		return nil
	case state.InSet:
		return c.lookup(s.Fields, s.Set, s.Not)
	case state.VMapLookup:
		return c.lookupInto(s.Fields, s.Map, unix.NFT_REG_VERDICT)
	default:
		return c.action(s)
	}
}

func (c *compiler) action(s state.Statement) error {
	switch s := s.(type) {
	case state.Count:
		c.count(s)
	case state.Verdict:
		return c.verdict(s)
	case state.SetMark:
		return c.setMark(s)
	case state.NAT:
		return c.nat(s)
	case state.Masquerade:
		c.emit(&expr.Masq{FullyRandom: s.FullyRandom})
	case state.Reject:
		c.reject(s)
	case state.ClampMSS:
		c.clampMSS(s)
	case state.Notrack:
		c.emit(&expr.Notrack{})
	case state.Limit:
		c.emit(&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(s.Rate), Unit: expr.LimitTimeSecond, Burst: s.Burst})
	case state.Log:
		c.emit(&expr.Log{
			Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: s.Group, Data: []byte(s.Prefix),
		})
	case state.Remember:
		return c.dynamic(s.Fields, s.Data, &expr.Dynset{SetName: s.Set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: s.Timeout})
	case state.Forget:
		return c.dynamic(s.Fields, s.Data, &expr.Dynset{SetName: s.Set, Operation: dynsetDelete})
	default:
		return fmt.Errorf("unknown statement %T", s)
	}
	return nil
}

func (c *compiler) compare(s state.Cmp) error {
	c.require(s.Field)
	if err := c.load(s.Field, unix.NFT_REG_1); err != nil {
		return err
	}
	c.emit(&expr.Cmp{Op: cmpOp(s.Not), Register: unix.NFT_REG_1, Data: []byte(s.Value)})
	if !s.Not {
		c.know(s.Field, s.Value)
	}
	return nil
}

func cmpOp(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

func (c *compiler) prefix(s state.InPrefix) error {
	p := s.Prefix.Masked()
	size := p.Addr().BitLen() / 8
	if size != s.Field.Type().Size() {
		return fmt.Errorf("prefix %s has another family than the field", p)
	}
	c.require(s.Field)
	if p.Bits()%8 == 0 && p.Bits() > 0 {
		// Whole bytes: a shorter load and comparison does, which is what nft itself writes.
		n := p.Bits() / 8
		if err := c.loadPart(s.Field, unix.NFT_REG_1, n); err != nil {
			return err
		}
		c.emit(&expr.Cmp{Op: cmpOp(s.Not), Register: unix.NFT_REG_1, Data: p.Addr().AsSlice()[:n]})
		return nil
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return c.masked(s.Field, s.Not, mask, p.Addr().AsSlice())
}

// masked compares a field under a mask.
func (c *compiler) masked(f state.Field, not bool, mask, value []byte) error {
	c.require(f)
	if err := c.load(f, unix.NFT_REG_1); err != nil {
		return err
	}
	c.emit(
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1,
			Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
		},
		&expr.Cmp{Op: cmpOp(not), Register: unix.NFT_REG_1, Data: value},
	)
	return nil
}

// bits matches when any (or, with not, none) of the bits is set.
func (c *compiler) bits(f state.Field, not bool, bits uint32) error {
	return c.masked(f, !not, binary.NativeEndian.AppendUint32(nil, bits), make([]byte, 4))
}

func (c *compiler) tcpFlags(s state.TCPFlags) {
	c.needL4(state.ProtoValue(state.ProtoTCP))
	const flagsOffset = 13
	c.emit(
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 1, Mask: []byte{s.Mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{s.Value}},
	)
}

func (c *compiler) lookup(fields []state.Field, set string, not bool) error {
	if err := c.loadAll(fields); err != nil {
		return err
	}
	c.emit(&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set, Invert: not})
	return nil
}

func (c *compiler) lookupInto(fields []state.Field, set string, dest uint32) error {
	if err := c.loadAll(fields); err != nil {
		return err
	}
	c.emit(&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: dest, IsDestRegSet: true, SetName: set})
	return nil
}

func (c *compiler) count(s state.Count) {
	if s.Name == "" {
		c.emit(&expr.Counter{})
		return
	}
	c.emit(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: s.Name})
}

func (c *compiler) verdict(v state.Verdict) error {
	e, err := kernelVerdict(v)
	if err != nil {
		return err
	}
	c.emit(e)
	return nil
}

func kernelVerdict(v state.Verdict) (*expr.Verdict, error) {
	kinds := map[state.VerdictKind]expr.VerdictKind{
		state.VerdictAccept: expr.VerdictAccept,
		state.VerdictDrop:   expr.VerdictDrop,
		state.VerdictReturn: expr.VerdictReturn,
		state.VerdictJump:   expr.VerdictJump,
		state.VerdictGoto:   expr.VerdictGoto,
	}
	kind, ok := kinds[v.Kind]
	if !ok {
		return nil, fmt.Errorf("no verdict")
	}
	return &expr.Verdict{Kind: kind, Chain: v.Chain}, nil
}
