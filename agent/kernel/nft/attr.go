//go:build linux

package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// attr is one netlink attribute. Numbers of nftables attributes are big-endian.
type attr struct {
	typ  uint16
	data []byte
}

const attrHeader = 4

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// put appends attributes to b in wire form.
func put(b []byte, attrs ...attr) []byte {
	for _, a := range attrs {
		b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(a.data)))
		b = binary.NativeEndian.AppendUint16(b, a.typ)
		b = append(b, a.data...)
		b = append(b, make([]byte, align(len(a.data))-len(a.data))...)
	}
	return b
}

func str(typ uint16, s string) attr { return attr{typ, append([]byte(s), 0)} }

func u32(typ uint16, v uint32) attr { return attr{typ, binary.BigEndian.AppendUint32(nil, v)} }

func u64(typ uint16, v uint64) attr { return attr{typ, binary.BigEndian.AppendUint64(nil, v)} }

func raw(typ uint16, v []byte) attr { return attr{typ, v} }

func nest(typ uint16, attrs ...attr) attr {
	return attr{typ | unix.NLA_F_NESTED, put(nil, attrs...)}
}

// attrMask takes the flags off an attribute's type.
const attrMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// parse takes wire form apart; it stops at the first attribute that does not fit.
func parse(b []byte) []attr {
	var out []attr
	for len(b) >= attrHeader {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeader || n > len(b) {
			break
		}
		out = append(out, attr{binary.NativeEndian.Uint16(b[2:]) & attrMask, b[attrHeader:n]})
		b = b[min(align(n), len(b)):]
	}
	return out
}

// find returns the data of the first attribute of a type, or nil.
func find(attrs []attr, typ uint16) []byte {
	for _, a := range attrs {
		if a.typ == typ {
			return a.data
		}
	}
	return nil
}

func asString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func asUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func asUint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
