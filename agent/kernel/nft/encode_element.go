//go:build linux

package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// encodeElement gives one element as entries of the list of elements. A range of a set with one
// field is two entries, its beginning and the first value behind its end; a range of joined fields
// is one entry with both ends.
func encodeElement(s state.Set, el state.Element, withData bool) ([]byte, error) {
	if int(typeLen(s.Key)) != len(el.Key) {
		return nil, fmt.Errorf("key has %d bytes, want %d", len(el.Key), typeLen(s.Key))
	}
	attrs := []wire.Attr{dataValue(unix.NFTA_SET_ELEM_KEY, el.Key)}
	if s.Interval && len(s.Key) > 1 {
		end := el.KeyEnd
		if end == "" {
			end = el.Key
		}
		attrs = append(attrs, dataValue(setElemKeyEnd, end))
	}
	if withData {
		data, err := elementData(s, el)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, data...)
		if el.Comment != "" {
			attrs = append(attrs, wire.Bytes(unix.NFTA_SET_ELEM_USERDATA, udataString(nil, udataElemComment, el.Comment)))
		}
	}
	list := wire.Put(nil, wire.Nest(unix.NFTA_LIST_ELEM, attrs...))
	if !s.Interval || len(s.Key) > 1 {
		return list, nil
	}
	end := el.KeyEnd
	if end == "" {
		end = el.Key
	}
	if next, ok := after(end); ok {
		list = wire.Put(list, wire.Nest(unix.NFTA_LIST_ELEM,
			dataValue(unix.NFTA_SET_ELEM_KEY, next), wire.Big32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)))
	}
	return list, nil
}

func dataValue(typ uint16, v state.Value) wire.Attr {
	return wire.Nest(typ, wire.Bytes(unix.NFTA_DATA_VALUE, []byte(v)))
}

func elementData(s state.Set, el state.Element) ([]wire.Attr, error) {
	switch s.Kind {
	case state.KindMap:
		if int(typeLen(s.Data)) != len(el.Data) {
			return nil, fmt.Errorf("data has %d bytes, want %d", len(el.Data), typeLen(s.Data))
		}
		return []wire.Attr{dataValue(unix.NFTA_SET_ELEM_DATA, el.Data)}, nil
	case state.KindVMap:
		v, err := kernelVerdict(el.Verdict)
		if err != nil {
			return nil, err
		}
		parts := []wire.Attr{wire.Big32(unix.NFTA_VERDICT_CODE, uint32(v.Kind))}
		if v.Chain != "" {
			parts = append(parts, wire.Str(unix.NFTA_VERDICT_CHAIN, v.Chain))
		}
		return []wire.Attr{wire.Nest(unix.NFTA_SET_ELEM_DATA, wire.Nest(unix.NFTA_DATA_VERDICT, parts...))}, nil
	case state.KindSet:
	}
	return nil, nil
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
