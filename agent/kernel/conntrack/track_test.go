//go:build linux

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// tuples are a flow's, as the kernel lists and takes them.
func tuples(f Flow) []byte {
	tuple := func(typ uint16, t Tuple) wire.Attr {
		src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
		if t.Src.Addr().Is6() {
			src, dst = ctaIPv6Src, ctaIPv6Dst
		}
		port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
		return wire.Nest(typ,
			wire.Nest(ctaTupleIP, wire.Bytes(src, t.Src.Addr().AsSlice()), wire.Bytes(dst, t.Dst.Addr().AsSlice())),
			wire.Nest(ctaTupleProto, wire.Bytes(ctaProtoNum, []byte{t.Protocol}),
				wire.Bytes(ctaProtoSrcPort, port(t.Src.Port())), wire.Bytes(ctaProtoDstPort, port(t.Dst.Port()))))
	}
	return wire.Put(nil, tuple(ctaTupleOrig, f.Original), tuple(ctaTupleReply, f.Reply))
}

// entry is a connection that has ended.
func entry(f Flow, mark uint32) []byte {
	return wire.Put(tuples(f), wire.Big32(ctaMark, mark), wire.Nest(ctaProtoInfo, wire.Nest(protoInfoTCP, wire.Bytes(tcpState, []byte{tcpClose}))))
}

func aFlow(src, dst string) Flow {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return Flow{Original: Tuple{from, to, state.ProtoTCP}, Reply: Tuple{to, from, state.ProtoTCP}}
}

// TestWhatIsNotWantedCostsNothing: of a flow that is of no interest nothing is kept, however many there are.
func TestWhatIsNotWantedCostsNothing(t *testing.T) {
	for _, f := range []Flow{aFlow("10.0.0.1:99", "10.0.0.2:80"), aFlow("[fd00::1]:99", "[fd00::2]:80")} {
		s := searchFor([]netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")})
		raw := entry(f, 7)
		if n := testing.AllocsPerRun(100, func() { s.foundBy(decodeFlow(raw)) }); n != 0 {
			t.Errorf("%v allocations to pass over %s", n, f)
		}
		if got := decodeFlow(raw); got != f || s.foundBy(f) != -1 {
			t.Errorf("read %s as %s, found by pass %d", f, got, s.foundBy(f))
		}
		if got := decodeTracked(unix.AF_INET, f, raw); got.Mark != 7 || !got.Over || len(got.key) == 0 {
			t.Errorf("read %s as %+v", f, got)
		}
	}
}

// TestBatch: of those that are wanted no more are held than one batch, and none is left out.
func TestBatch(t *testing.T) {
	for _, flows := range []int{0, 1, batchSize, batchSize + 1, 50*batchSize + 3} {
		given := 0
		b := batch{give: func(f []Tracked) error {
			given += len(f)
			if len(f) > batchSize || cap(f) > 2*batchSize {
				t.Fatalf("%d flows held, room for %d", len(f), cap(f))
			}
			return nil
		}}
		for range flows {
			if err := b.add(Tracked{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.flush(); err != nil || given != flows {
			t.Errorf("%d of %d flows given, error %v", given, flows, err)
		}
	}
	fault := errors.New("no more")
	b := batch{give: func([]Tracked) error { return fault }, flows: make([]Tracked, batchSize-1)}
	if err := b.add(Tracked{}); !errors.Is(err, fault) {
		t.Errorf("error is %v", err)
	}
}

// TestFoundOnce: whichever of its addresses are asked for, one listing and no other gives a flow.
func TestFoundOnce(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	many := addrs("fd00::1")
	for i := range 2 * maxFiltered {
		many = append(many, netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i+1)))
	}
	v4, v6 := aFlow("10.0.0.1:99", "10.0.0.2:80"), aFlow("[fd00::1]:99", "[fd00::2]:80")
	for name, row := range map[string]struct {
		asked  []netip.Addr
		v4, v6 int
	}{
		"all":             {nil, 0, 1},
		"who began it":    {addrs("10.0.0.1"), 0, -1},
		"who answers":     {addrs("10.0.0.2"), 1, -1},
		"both":            {addrs("10.0.0.2", "10.0.0.1"), 1, -1},
		"another":         {addrs("10.0.0.3"), -1, -1},
		"mapped":          {addrs("::ffff:10.0.0.1"), 0, -1},
		"IPv6":            {addrs("fd00::2"), -1, 0},
		"both families":   {addrs("fd00::2", "10.0.0.2"), 1, 2},
		"too many to ask": {many, 0, 1},
	} {
		s := searchFor(row.asked)
		if s.foundBy(v4) != row.v4 || s.foundBy(v6) != row.v6 {
			t.Errorf("%s: found by %d and %d, want %d and %d", name, s.foundBy(v4), s.foundBy(v6), row.v4, row.v6)
		}
	}
}
