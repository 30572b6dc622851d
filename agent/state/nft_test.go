package state

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestValueFormat(t *testing.T) {
	for want, v := range map[string]struct {
		value Value
		typ   DataType
	}{
		"10.0.0.1":   {AddrValue(netip.MustParseAddr("::ffff:10.0.0.1")), TypeIPv4},
		"fd00::1":    {AddrValue(netip.MustParseAddr("fd00::1")), TypeIPv6},
		"8080":       {PortValue(8080), TypePort},
		"tcp":        {ProtoValue(ProtoTCP), TypeProto},
		"47":         {ProtoValue(47), TypeProto},
		`"weft0"`:    {IfNameValue("weft0"), TypeIfName},
		`"weftp*"`:   {IfNameValue("weftp*"), TypeIfName},
		"0x00004000": {MarkValue(0x4000), TypeMark},
		"local":      {AddrTypeLocal, TypeAddrType},
		"missing":    {FibMissing, TypeFibResult},
		"ipv6":       {NFProtoIPv6, TypeNFProto},
		"0102":       {"\x01\x02", TypeIPv4}, // too short to be an address
	} {
		if got := v.value.Format(v.typ); got != want {
			t.Errorf("%x of type %s is %q, want %q", string(v.value), v.typ, got, want)
		}
	}
}

func TestConcatAndSplit(t *testing.T) {
	types := []DataType{TypeIPv4, TypeProto, TypePort}
	parts := []Value{AddrValue(netip.MustParseAddr("10.0.0.1")), ProtoValue(6), PortValue(80)}
	v := Concat(parts...)
	if len(v) != 12 {
		t.Errorf("length is %d, want 12", len(v))
	}
	if got := SplitValue(v, types); !slices.Equal(got, parts) {
		t.Errorf("split is %q", got)
	}
	if got := FormatKey(v, types); got != "10.0.0.1 . tcp . 80" {
		t.Errorf("printed %q", got)
	}
	if SplitValue(v[:9], types) != nil {
		t.Error("too short a value was split")
	}
}

func TestFormatElementRanges(t *testing.T) {
	addr := func(s string) Value { return AddrValue(netip.MustParseAddr(s)) }
	s := Set{Key: []DataType{TypeIPv4}, Interval: true}
	for want, e := range map[string]Element{
		"10.0.0.0/8":          PrefixElement(netip.MustParsePrefix("10.1.2.3/8")),
		"10.0.0.1":            PrefixElement(netip.MustParsePrefix("10.0.0.1/32")),
		"10.0.0.1-10.0.0.2":   {Key: addr("10.0.0.1"), KeyEnd: addr("10.0.0.2")},
		"10.0.0.0-10.0.2.255": {Key: addr("10.0.0.0"), KeyEnd: addr("10.0.2.255")},
		"0.0.0.0/0":           PrefixElement(netip.MustParsePrefix("0.0.0.0/0")),
		"128.0.0.0/1":         PrefixElement(netip.MustParsePrefix("128.0.0.0/1")),
		"10.0.0.255-10.0.1.0": {Key: addr("10.0.0.255"), KeyEnd: addr("10.0.1.0")},
	} {
		if got := s.FormatElement(e); got != want {
			t.Errorf("element is %q, want %q", got, want)
		}
	}
}

func TestElementsEqual(t *testing.T) {
	a := []Element{{Key: "b"}, {Key: "a"}, {Key: "a"}}
	if !ElementsEqual(a, []Element{{Key: "a"}, {Key: "b"}}) {
		t.Error("order or repetition matters")
	}
	if a[0].Key != "b" {
		t.Error("the argument was sorted")
	}
	if ElementsEqual(a, []Element{{Key: "a"}, {Key: "b", Data: "x"}}) || ElementsEqual(a, nil) {
		t.Error("different elements are equal")
	}
	sorted := []Element{{Key: "a"}, {Key: "b"}}
	if got := SortElements(sorted); &got[0] != &sorted[0] {
		t.Error("a sorted list was copied")
	}
}

func TestTableEqual(t *testing.T) {
	rule := func(s ...Statement) ChainRule { return ChainRule{Statements: s} }
	nat := NAT{Family: IPv4, Fields: Fields(FieldTHDport), Map: "m"}
	withPort := nat
	withPort.MapHasPort = true
	if rule(nat).Equal(rule(withPort)) {
		t.Error("rules that print alike and do not do the same are equal")
	}
	one := Table{Family: "inet", Name: "t", Counters: []string{"b", "a"}, Chains: []Chain{{Name: "x"}, {Name: "y", Rules: []ChainRule{rule(Drop)}}}}
	two := Table{Family: "inet", Name: "t", Counters: []string{"a", "b"}, Chains: []Chain{{Name: "y", Rules: []ChainRule{rule(Drop)}}, {Name: "x"}}}
	if !one.Equal(two) || one.Counters[0] != "b" {
		t.Error("order matters, or the argument was sorted")
	}
	two.Chains[0].Rules = []ChainRule{rule(Accept)}
	if one.Equal(two) {
		t.Error("different tables are equal")
	}
	base := Chain{Name: "c", Type: ChainFilter, Hook: HookInput}
	accept := base
	accept.Policy = PolicyAccept
	if !base.Equal(accept) {
		t.Error("the default policy is not accept")
	}
}

func TestPriorityText(t *testing.T) {
	for want, row := range map[string]struct {
		hook Hook
		p    int32
	}{
		"raw": {HookPrerouting, -300}, "raw - 1": {HookPrerouting, -301}, "dstnat": {HookPrerouting, -100}, "-100": {HookOutput, -100},
		"srcnat + 10": {HookPostrouting, 110}, "300": {HookPostrouting, 300}, "filter": {HookInput, 0}, "security - 5": {HookInput, 45}, "100": {HookInput, 100},
	} {
		if got := priorityText(row.hook, row.p); got != want {
			t.Errorf("%d at %s is %q, want %q", row.p, row.hook, got, want)
		}
	}
}

func TestNFTDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{"3h": 3 * time.Hour, "1m30s": 90 * time.Second, "1d1s": 24*time.Hour + time.Second, "5ms": 5 * time.Millisecond} {
		if got := nftDuration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestNumgen(t *testing.T) {
	f := Numgen(3)
	if mod, ok := f.Numgen(); !ok || mod != 3 || f.String() != "numgen random mod 3" || f.Type() != TypeInteger {
		t.Errorf("numgen is %q, %v", f, mod)
	}
	if _, ok := FieldMark.Numgen(); ok {
		t.Error("a mark is a random number")
	}
}
