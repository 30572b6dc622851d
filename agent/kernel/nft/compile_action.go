//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

func (c *compiler) setMark(s state.SetMark) error {
	field := state.FieldMark
	if s.Conntrack {
		field = state.FieldCTMark
	}
	switch {
	case s.Map != "":
		if err := c.lookupInto(s.Fields, s.Map, unix.NFT_REG_1); err != nil {
			return err
		}
	case s.Mask == 0 || s.Mask == ^uint32(0):
		c.emit(&expr.Immediate{Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint32(nil, s.Value)})
	default:
		if err := c.load(field, unix.NFT_REG_1); err != nil {
			return err
		}
		c.emit(&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, ^s.Mask),
			Xor:  binary.NativeEndian.AppendUint32(nil, s.Value),
		})
	}
	if s.Conntrack {
		c.emit(&expr.Ct{Key: expr.CtKeyMARK, Register: unix.NFT_REG_1, SourceRegister: true})
	} else {
		c.emit(&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1, SourceRegister: true})
	}
	return nil
}

func (c *compiler) nat(s state.NAT) error {
	e := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_1}
	addrType, nfproto := state.TypeIPv4, state.NFProtoIPv4
	if s.Source {
		e.Type = expr.NATTypeSourceNAT
	}
	if s.Family == state.IPv6 {
		e.Family, addrType, nfproto = unix.NFPROTO_IPV6, state.TypeIPv6, state.NFProtoIPv6
	}
	portRegister := register(words(addrType))
	if s.Map != "" {
		if err := c.lookupInto(s.Fields, s.Map, unix.NFT_REG_1); err != nil {
			return err
		}
		if s.MapHasPort {
			e.RegProtoMin = portRegister
		}
		c.natMark(s)
		c.emit(e)
		return nil
	}
	if state.FamilyOf(s.Addr) != s.Family {
		return fmt.Errorf("address %s is not of family %s", s.Addr, s.Family)
	}
	if c.nfproto != nfproto {
		return fmt.Errorf("the rule must match meta nfproto %s first", s.Family)
	}
	c.emit(&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte(state.AddrValue(s.Addr))})
	if s.Port != 0 {
		c.emit(&expr.Immediate{Register: portRegister, Data: []byte(state.PortValue(s.Port))})
		e.RegProtoMin = portRegister
	}
	c.natMark(s)
	c.emit(e)
	return nil
}

// natMark writes the mark out of a register behind those of the address and port.
func (c *compiler) natMark(s state.NAT) {
	if !s.WriteMark {
		return
	}
	c.emit(
		&expr.Immediate{Register: unix.NFT_REG_4, Data: binary.NativeEndian.AppendUint32(nil, s.Mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_4, SourceRegister: true},
	)
}

func (c *compiler) reject(s state.Reject) {
	const portUnreachable, adminProhibited = 1, 3 // NFT_REJECT_ICMPX_*
	switch s.With {
	case state.RejectReset:
		c.needL4(protoTCP)
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	case state.RejectAdmin:
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: adminProhibited})
	case state.RejectPort:
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: portUnreachable})
	}
}

// clampMSS writes the maximum segment size option (kind 2, the value at offset 2).
func (c *compiler) clampMSS(s state.ClampMSS) {
	const optionMSS, valueOffset, valueLen = 2, 2, 2
	c.needL4(protoTCP)
	if s.Size == 0 {
		c.emit(
			&expr.Rt{Register: unix.NFT_REG_1, Key: expr.RtTCPMSS},
			&expr.Byteorder{
				SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1,
				Op: expr.ByteorderHton, Len: valueLen, Size: valueLen,
			},
		)
	} else {
		c.emit(&expr.Immediate{Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint16(nil, s.Size)})
	}
	c.emit(&expr.Exthdr{
		SourceRegister: unix.NFT_REG_1, Type: optionMSS, Offset: valueOffset, Len: valueLen, Op: expr.ExthdrOpTcpopt,
	})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which x/sys/unix lacks.
const dynsetDelete = 2

// dynamic changes a dynamic set by key and, for a map, data.
func (c *compiler) dynamic(key, data []state.Field, e *expr.Dynset) error {
	if err := c.loadAll(key); err != nil {
		return err
	}
	e.SrcRegKey = unix.NFT_REG_1
	next := 0
	for _, f := range key {
		next += words(f.Type())
	}
	if len(data) > 0 {
		e.SrcRegData = register(next)
	}
	for _, f := range data {
		if err := c.load(f, register(next)); err != nil {
			return err
		}
		next += words(f.Type())
	}
	c.emit(e)
	return nil
}
