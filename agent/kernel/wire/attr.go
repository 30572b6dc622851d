//go:build linux

package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Attr is one netlink attribute.
type Attr struct {
	Type uint16
	Data []byte
}

const attrHeader = 4

// Align rounds a length up to netlink's unit of four bytes.
func Align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// Put appends attributes to b in wire form.
func Put(b []byte, attrs ...Attr) []byte {
	for _, a := range attrs {
		b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(a.Data)))
		b = binary.NativeEndian.AppendUint16(b, a.Type)
		b = append(b, a.Data...)
		b = append(b, make([]byte, Align(len(a.Data))-len(a.Data))...)
	}
	return b
}

// Str is a string with its closing zero.
func Str(typ uint16, s string) Attr { return Attr{typ, append([]byte(s), 0)} }

// Bytes is a value as it is.
func Bytes(typ uint16, v []byte) Attr { return Attr{typ, v} }

// Big32 is a number in network order, as nftables has them.
func Big32(typ uint16, v uint32) Attr { return Attr{typ, binary.BigEndian.AppendUint32(nil, v)} }

// Big64 is a number in network order.
func Big64(typ uint16, v uint64) Attr { return Attr{typ, binary.BigEndian.AppendUint64(nil, v)} }

// Host32 is a number in the machine's order, as routing has them.
func Host32(typ uint16, v uint32) Attr { return Attr{typ, binary.NativeEndian.AppendUint32(nil, v)} }

// Nest is an attribute made of attributes.
func Nest(typ uint16, attrs ...Attr) Attr { return Attr{typ | unix.NLA_F_NESTED, Put(nil, attrs...)} }

// typeMask takes the flags off an attribute's type.
const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// Parse takes wire form apart, types without their flags; it stops at the first attribute that
// does not fit.
func Parse(b []byte) []Attr {
	var out []Attr
	for len(b) >= attrHeader {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeader || n > len(b) {
			break
		}
		out = append(out, Attr{binary.NativeEndian.Uint16(b[2:]) & typeMask, b[attrHeader:n]})
		b = b[min(Align(n), len(b)):]
	}
	return out
}

// Lookup finds one attribute in wire form by the types on the way down to it, and allocates nothing: for
// listings of which most entries are looked at and not kept.
func Lookup(b []byte, path ...uint16) []byte {
	for _, typ := range path {
		if b = lookup(b, typ); b == nil {
			return nil
		}
	}
	return b
}

func lookup(b []byte, typ uint16) []byte {
	for len(b) >= attrHeader {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeader || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&typeMask == typ {
			return b[attrHeader:n]
		}
		b = b[min(Align(n), len(b)):]
	}
	return nil
}

// Find returns the data of the first attribute of a type, or nil.
func Find(attrs []Attr, typ uint16) []byte {
	for _, a := range attrs {
		if a.Type == typ {
			return a.Data
		}
	}
	return nil
}

// String reads a value up to its closing zero.
func String(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// BigUint32 reads a number in network order; too short a value is zero.
func BigUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// BigUint64 reads a number in network order; too short a value is zero.
func BigUint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// HostUint32 reads a number in the machine's order; too short a value is zero.
func HostUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
