//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

// paper encodes what it is given, and sends it to nobody.
type paper struct{ bytes int }

func (*paper) Observe(context.Context) (Observed, error) { return Observed{}, nil }

func (p *paper) Apply(_ context.Context, c Change) error {
	msgs, err := encode(c)
	p.bytes += len(encodeBatch(msgs, 1))
	return err
}

// BenchmarkPut is what the ledger takes for 10,000 owners with ten elements each in four sets, all but the kernel's work.
func BenchmarkPut(b *testing.B) {
	const owners = 10_000
	mark, addr, port := state.TypeMark, state.TypeIPv4, state.TypePort
	table := state.Table{Family: "inet", Name: "bench", Sets: []state.Set{
		{Name: "services", Kind: state.KindMap, Key: []state.DataType{addr, port}, Data: []state.DataType{mark}},
		{Name: "endpoints", Kind: state.KindMap, Key: []state.DataType{addr, port, mark}, Data: []state.DataType{addr, port}},
		{Name: "services6", Kind: state.KindMap, Key: []state.DataType{addr, port}, Data: []state.DataType{mark}},
		{Name: "endpoints6", Kind: state.KindMap, Key: []state.DataType{addr, port, mark}, Data: []state.DataType{addr, port}},
	}}
	wanted := make([]Wanted, owners)
	for i := range wanted {
		ip := state.Value(binary.BigEndian.AppendUint32(nil, uint32(i)))
		key := state.Concat(ip, state.PortValue(80))
		services := []state.Element{{Key: key, Data: state.MarkValue(3)}}
		var endpoints []state.Element
		for slot := range uint32(4) {
			endpoints = append(endpoints, state.Element{
				Key:  key + state.Value(binary.BigEndian.AppendUint32(nil, slot)),
				Data: state.Concat(ip, state.PortValue(8080)),
			})
		}
		wanted[i] = Wanted{Owner: fmt.Sprint("default/service-", i), Sets: map[string][]state.Element{
			"services": services, "endpoints": endpoints, "services6": services, "endpoints6": endpoints,
		}}
	}
	b.ReportAllocs()
	for b.Loop() {
		p := &paper{}
		l := NewLedger(p)
		if _, err := l.Frame(b.Context(), table); err != nil {
			b.Fatal(err)
		}
		for at := 0; at < owners; at += 256 {
			if _, err := l.Put(b.Context(), wanted[at:min(at+256, owners)]); err != nil {
				b.Fatal(err)
			}
		}
		if p.bytes == 0 {
			b.Fatal("nothing was written")
		}
	}
}
