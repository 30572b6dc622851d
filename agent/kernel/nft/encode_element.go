//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// appendElement appends one element as entries of the list of elements. A range of a set with one
// field is two entries, its beginning and the first value behind its end; a range of joined fields
// is one entry with both ends. There may be hundreds of thousands, so nothing is allocated here.
func appendElement(b []byte, s state.Set, el state.Element, withData bool) ([]byte, error) {
	if int(typeLen(s.Key)) != len(el.Key) {
		return b, fmt.Errorf("key has %d bytes, want %d", len(el.Key), typeLen(s.Key))
	}
	joined := s.Interval && len(s.Key) > 1
	end := el.KeyEnd
	if end == "" {
		end = el.Key
	}
	b, entry := openNest(b, unix.NFTA_LIST_ELEM)
	b = appendValue(b, unix.NFTA_SET_ELEM_KEY, el.Key)
	if joined {
		b = appendValue(b, setElemKeyEnd, end)
	}
	if withData {
		var err error
		if b, err = appendData(b, s, el); err != nil {
			return b, err
		}
		if el.Comment != "" {
			b = wire.Put(b, wire.Bytes(unix.NFTA_SET_ELEM_USERDATA, udataString(nil, udataElemComment, el.Comment)))
		}
	}
	closeNest(b, entry)
	if s.Interval && !joined {
		if next, ok := after(end); ok {
			b, entry = openNest(b, unix.NFTA_LIST_ELEM)
			b = appendValue(b, unix.NFTA_SET_ELEM_KEY, next)
			b = wire.Put(b, wire.Big32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END))
			closeNest(b, entry)
		}
	}
	return b, nil
}

const attrHeader = 4

// openNest begins an attribute made of attributes and returns where it began; closeNest writes its
// length, which is only known then.
func openNest(b []byte, typ uint16) ([]byte, int) {
	start := len(b)
	b = binary.NativeEndian.AppendUint16(b, 0)
	return binary.NativeEndian.AppendUint16(b, typ|unix.NLA_F_NESTED), start
}

func closeNest(b []byte, start int) { binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start)) }

// appendValue appends a value, wrapped as nftables wraps data.
func appendValue(b []byte, typ uint16, v state.Value) []byte {
	b, nest := openNest(b, typ)
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(v)))
	b = binary.NativeEndian.AppendUint16(b, unix.NFTA_DATA_VALUE)
	b = append(b, v...)
	for range wire.Align(len(v)) - len(v) {
		b = append(b, 0)
	}
	closeNest(b, nest)
	return b
}

func appendData(b []byte, s state.Set, el state.Element) ([]byte, error) {
	switch s.Kind {
	case state.KindMap:
		if int(typeLen(s.Data)) != len(el.Data) {
			return b, fmt.Errorf("data has %d bytes, want %d", len(el.Data), typeLen(s.Data))
		}
		return appendValue(b, unix.NFTA_SET_ELEM_DATA, el.Data), nil
	case state.KindVMap:
		v, err := kernelVerdict(el.Verdict)
		if err != nil {
			return b, err
		}
		parts := []wire.Attr{wire.Big32(unix.NFTA_VERDICT_CODE, uint32(v.Kind))}
		if v.Chain != "" {
			parts = append(parts, wire.Str(unix.NFTA_VERDICT_CHAIN, v.Chain))
		}
		return wire.Put(b, wire.Nest(unix.NFTA_SET_ELEM_DATA, wire.Nest(unix.NFTA_DATA_VERDICT, parts...))), nil
	case state.KindSet:
	}
	return b, nil
}

// after is the value that follows; there is none after the highest.
func after(v state.Value) (state.Value, bool) { return step(v, 0xff, 0x00, 1) }

// before is the value that precedes; there is none before zero.
func before(v state.Value) (state.Value, bool) { return step(v, 0x00, 0xff, 0xff) }

// step adds delta (1, or 0xff for -1) to a big-endian number: bytes equal to full turn over to
// empty and carry.
func step(v state.Value, full, empty, delta byte) (state.Value, bool) {
	b := []byte(v)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != full {
			b[i] += delta
			return state.Value(b), true
		}
		b[i] = empty
	}
	return "", false
}
