//go:build linux

package nft

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// headerField is where a field lies in a header, and what the packet must be for it to be there.
type headerField struct {
	base    expr.PayloadBase
	offset  uint32
	nfproto state.Value
	l4proto state.Value
}

const (
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
)

var (
	protoTCP    = state.ProtoValue(state.ProtoTCP)
	protoUDP    = state.ProtoValue(state.ProtoUDP)
	protoICMP   = state.ProtoValue(unix.IPPROTO_ICMP)
	protoICMPv6 = state.ProtoValue(state.ProtoICMPv6)
)

var headerFields = map[state.Field]headerField{
	state.FieldIPSaddr:    {network, 12, state.NFProtoIPv4, ""},
	state.FieldIPDaddr:    {network, 16, state.NFProtoIPv4, ""},
	state.FieldIPProtocol: {network, 9, state.NFProtoIPv4, ""},
	state.FieldIP6Saddr:   {network, 8, state.NFProtoIPv6, ""},
	state.FieldIP6Daddr:   {network, 24, state.NFProtoIPv6, ""},
	state.FieldTHSport:    {transport, 0, "", ""},
	state.FieldTHDport:    {transport, 2, "", ""},
	state.FieldTCPSport:   {transport, 0, "", protoTCP},
	state.FieldTCPDport:   {transport, 2, "", protoTCP},
	state.FieldUDPSport:   {transport, 0, "", protoUDP},
	state.FieldUDPDport:   {transport, 2, "", protoUDP},
	state.FieldICMPType:   {transport, 0, state.NFProtoIPv4, protoICMP},
	state.FieldICMPv6Type: {transport, 0, state.NFProtoIPv6, protoICMPv6},
	// Behind the 8 bytes of an ICMP error lies the header of the packet that it is about. That it is
	// such an error the rules before have seen to.
	state.FieldQuotedSaddr:  {transport, 8 + 12, "", ""},
	state.FieldQuotedDaddr:  {transport, 8 + 16, "", ""},
	state.FieldQuoted6Saddr: {transport, 8 + 8, "", ""},
	state.FieldQuoted6Daddr: {transport, 8 + 24, "", ""},
}

var metaKeys = map[state.Field]expr.MetaKey{
	state.FieldIIFName: expr.MetaKeyIIFNAME,
	state.FieldOIFName: expr.MetaKeyOIFNAME,
	state.FieldMark:    expr.MetaKeyMARK,
	state.FieldNFProto: expr.MetaKeyNFPROTO,
	state.FieldL4Proto: expr.MetaKeyL4PROTO,
	state.FieldPktType: expr.MetaKeyPKTTYPE,
	state.FieldSKUID:   expr.MetaKeySKUID,
}

var ctKeys = map[state.Field]expr.CtKey{
	state.FieldCTState:     expr.CtKeySTATE,
	state.FieldCTStatus:    expr.CtKeySTATUS,
	state.FieldCTMark:      expr.CtKeyMARK,
	state.FieldCTDirection: expr.CtKeyDIRECTION,
}

// load puts a field into a register.
func (c *compiler) load(f state.Field, reg uint32) error {
	if mod, ok := f.Numgen(); ok {
		if mod == 0 {
			return fmt.Errorf("numgen needs a modulus")
		}
		c.emit(&expr.Numgen{Register: reg, Modulus: mod, Type: unix.NFT_NG_RANDOM})
		return nil
	}
	if key, ok := metaKeys[f]; ok {
		c.emit(&expr.Meta{Key: key, Register: reg})
		return nil
	}
	if key, ok := ctKeys[f]; ok {
		c.emit(&expr.Ct{Key: key, Register: reg})
		return nil
	}
	if _, ok := headerFields[f]; ok {
		return c.loadPart(f, reg, f.Type().Size())
	}
	return c.loadFib(f, reg)
}

func (c *compiler) loadFib(f state.Field, reg uint32) error {
	switch f {
	case state.FieldFibDaddrType:
		c.emit(&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true})
	case state.FieldFibSaddrType:
		c.emit(&expr.Fib{Register: reg, FlagSADDR: true, ResultADDRTYPE: true})
	case state.FieldFibSaddrIIF:
		c.emit(&expr.Fib{Register: reg, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true})
	default:
		return fmt.Errorf("unknown field %d", f)
	}
	return nil
}

// loadPart loads the first n bytes of a header field.
func (c *compiler) loadPart(f state.Field, reg uint32, n int) error {
	h, ok := headerFields[f]
	if !ok {
		return fmt.Errorf("field %s is not part of a header", f)
	}
	c.emit(&expr.Payload{DestRegister: reg, Base: h.base, Offset: h.offset, Len: uint32(n)})
	return nil
}

// require adds the conditions that a header field stands on.
func (c *compiler) require(f state.Field) {
	h := headerFields[f]
	if h.nfproto != "" && c.nfproto != h.nfproto {
		c.emit(
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte(h.nfproto)},
		)
		c.nfproto = h.nfproto
	}
	if h.l4proto != "" {
		c.needL4(h.l4proto)
	}
}

func (c *compiler) needL4(proto state.Value) {
	if c.l4proto == proto {
		return
	}
	c.emit(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte(proto)},
	)
	c.l4proto = proto
}

// know remembers what the rule itself has asked for, so that it is not asked again.
func (c *compiler) know(f state.Field, v state.Value) {
	switch f {
	case state.FieldNFProto:
		c.nfproto = v
	case state.FieldL4Proto:
		c.l4proto = v
	default:
	}
}
