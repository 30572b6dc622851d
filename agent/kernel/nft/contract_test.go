//go:build linux

package nft

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

func prefixes(text ...string) []state.Element {
	var out []state.Element
	for _, s := range text {
		out = append(out, state.PrefixElement(netip.MustParsePrefix(s)))
	}
	return out
}

func addr(s string) state.Value { return state.AddrValue(netip.MustParseAddr(s)) }

func rules(lists ...[]state.Statement) []state.ChainRule {
	var out []state.ChainRule
	for _, l := range lists {
		out = append(out, state.ChainRule{Statements: l})
	}
	return out
}

type statements = []state.Statement

func sampleSets() []state.Set {
	ports := []state.DataType{state.TypeProto, state.TypePort}
	return []state.Set{
		{Name: "ranges4", Key: []state.DataType{state.TypeIPv4}, Interval: true, Elements: prefixes("10.0.0.0/8", "11.0.0.0/8", "172.16.0.0/12", "192.168.1.1/32", "255.255.255.0/24")},
		{Name: "ranges6", Key: []state.DataType{state.TypeIPv6}, Interval: true, Elements: prefixes("fd00:10:244::/48", "2001:db8::1/128")},
		{Name: "hosts4", Key: []state.DataType{state.TypeIPv4}, Elements: []state.Element{{Key: addr("10.0.0.1"), Comment: "one"}, {Key: addr("10.0.0.2")}}},
		{Name: "hosts6", Key: []state.DataType{state.TypeIPv6}, Elements: []state.Element{{Key: addr("fd00::1")}, {Key: addr("fd00::2")}}},
		{Name: "pairs", Key: []state.DataType{state.TypeIPv4, state.TypeIPv4}, Elements: []state.Element{{Key: state.Concat(addr("10.0.0.1"), addr("10.0.0.1"))}}},
		{
			Name: "ports", Kind: state.KindMap, Key: ports, Data: []state.DataType{state.TypeIPv4, state.TypePort}, Comment: "host ports",
			Elements: []state.Element{
				{Key: state.Concat(state.ProtoValue(6), state.PortValue(80)), Data: state.Concat(addr("10.0.0.1"), state.PortValue(8080))},
				{Key: state.Concat(state.ProtoValue(17), state.PortValue(53)), Data: state.Concat(addr("10.0.0.2"), state.PortValue(5353))},
			},
		},
		{
			Name: "ports6", Kind: state.KindMap, Key: ports, Data: []state.DataType{state.TypeIPv6, state.TypePort},
			Elements: []state.Element{
				{Key: state.Concat(state.ProtoValue(6), state.PortValue(80)), Data: state.Concat(addr("fd00::1"), state.PortValue(8080))},
			},
		},
		{
			Name: "marks", Kind: state.KindMap, Key: []state.DataType{state.TypeIPv4, state.TypeProto, state.TypePort}, Data: []state.DataType{state.TypeMark},
			Elements: []state.Element{
				{Key: state.Concat(addr("10.96.0.1"), state.ProtoValue(6), state.PortValue(443)), Data: state.MarkValue(2)},
			},
		},
		{
			Name: "dispatch", Kind: state.KindVMap, Key: []state.DataType{state.TypeMark},
			Elements: []state.Element{
				{Key: state.MarkValue(1), Verdict: state.Goto("helper")}, {Key: state.MarkValue(2), Verdict: state.Jump("helper")},
				{Key: state.MarkValue(3), Verdict: state.Drop}, {Key: state.MarkValue(4), Verdict: state.Accept},
			},
		},
		{
			Name: "endpoints", Kind: state.KindMap, Key: []state.DataType{state.TypeIPv4, state.TypePort, state.TypeMark}, Data: []state.DataType{state.TypeIPv4, state.TypePort},
			Elements: []state.Element{
				{Key: state.Concat(addr("10.96.0.1"), state.PortValue(443), state.MarkValue(0)), Data: state.Concat(addr("10.0.0.1"), state.PortValue(6443))},
				{Key: state.Concat(addr("10.96.0.1"), state.PortValue(443), state.MarkValue(1)), Data: state.Concat(addr("10.0.0.2"), state.PortValue(6443))},
			},
		},
		{
			Name: "policy", Key: []state.DataType{state.TypeIPv4, state.TypeProto, state.TypePort}, Interval: true,
			Elements: []state.Element{
				{
					Key:    state.Concat(addr("10.1.0.0"), state.ProtoValue(6), state.PortValue(80)),
					KeyEnd: state.Concat(addr("10.1.0.255"), state.ProtoValue(6), state.PortValue(90)),
				},
				{Key: state.Concat(addr("10.2.0.1"), state.ProtoValue(17), state.PortValue(53))},
			},
		},
		{Name: "affinity", Kind: state.KindMap, Key: []state.DataType{state.TypeIPv4}, Data: []state.DataType{state.TypeMark}, Dynamic: true, Timeout: 3 * time.Hour, Size: 65536},
		{Name: "seen", Key: []state.DataType{state.TypeIPv4, state.TypePort}, Dynamic: true, HasTimeout: true, Size: 1000},
		{Name: "links", Key: []state.DataType{state.TypeIfName}, ElementCounters: false, Elements: []state.Element{{Key: state.IfNameValue("weft0")}}},
	}
}

// sampleTables are tables that between them use everything that the model can say.
func sampleTables() map[string]state.Table {
	ip4, ip6 := state.Cmp{Field: state.FieldNFProto, Value: state.NFProtoIPv4}, state.Cmp{Field: state.FieldNFProto, Value: state.NFProtoIPv6}
	tcp := state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(state.ProtoTCP)}
	all := state.Table{
		Family: "inet", Name: state.TableName, Counters: []string{"in", "out"}, Sets: sampleSets(),
		Chains: []state.Chain{
			{Name: "entry", Type: state.ChainFilter, Hook: state.HookPrerouting, Priority: state.PriorityRaw, Rules: append(rules(
				statements{state.Cmp{Field: state.FieldIIFName, Value: state.IfNameValue("weft*")}, state.Accept},
				statements{state.Cmp{Field: state.FieldIIFName, Not: true, Value: state.IfNameValue("lo")}, state.Count{}, state.Goto("helper")},
				statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr), Set: "ranges4"}, state.Count{Name: "in"}, state.Drop},
				statements{state.InSet{Fields: state.Fields(state.FieldIP6Saddr), Set: "ranges6", Not: true}, state.Count{Name: "in"}, state.Drop},
				statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr, state.FieldIPDaddr), Set: "pairs"}, state.Notrack{}},
				statements{state.InPrefix{Field: state.FieldIPDaddr, Prefix: netip.MustParsePrefix("127.0.0.0/8")}, state.Drop},
				statements{state.InPrefix{Field: state.FieldIPDaddr, Not: true, Prefix: netip.MustParsePrefix("172.16.0.0/12")}, state.Drop},
				statements{state.InPrefix{Field: state.FieldIP6Saddr, Prefix: netip.MustParsePrefix("fe80::/10")}, state.Return},
				statements{state.InPrefix{Field: state.FieldIP6Saddr, Prefix: netip.MustParsePrefix("::1/128")}, state.Return},
				statements{state.Cmp{Field: state.FieldFibSaddrIIF, Value: state.FibMissing}, state.Drop},
				statements{state.Cmp{Field: state.FieldFibDaddrType, Value: state.AddrTypeLocal}, state.Jump("helper")},
			), state.ChainRule{Statements: statements{state.Accept}, Comment: "the end"})},
			{Name: "helper", Rules: rules(
				statements{state.CTState{States: state.CTEstablished | state.CTRelated}, state.Accept},
				statements{state.CTState{States: state.CTInvalid}, state.Drop},
				statements{state.CTStatus{Status: state.CTDNAT}, state.Accept},
				statements{state.Cmp{Field: state.FieldCTDirection, Value: state.ByteValue(1)}, state.Accept},
				statements{state.Cmp{Field: state.FieldTCPDport, Value: state.PortValue(80)}, state.Accept},
				statements{state.Cmp{Field: state.FieldUDPDport, Value: state.PortValue(53)}, state.Accept},
				statements{state.Cmp{Field: state.FieldICMPv6Type, Value: state.ByteValue(135)}, state.Accept},
				statements{tcp, state.Reject{With: state.RejectReset}},
				statements{state.Limit{Rate: 10, Burst: 20}, state.Log{Group: 5, Prefix: "weft "}},
				statements{state.Reject{}},
				statements{state.Reject{With: state.RejectAdmin}},
				statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr, state.FieldL4Proto, state.FieldTHDport), Set: "policy"}, state.Accept},
			)},
			{Name: "mangle", Type: state.ChainFilter, Hook: state.HookForward, Priority: state.PriorityMangle, Policy: state.PolicyDrop, Rules: rules(
				statements{state.TCPFlags{Mask: state.TCPSyn | state.TCPRst, Value: state.TCPSyn}, state.ClampMSS{}},
				statements{state.TCPFlags{Mask: state.TCPSyn | state.TCPRst, Value: state.TCPSyn}, state.ClampMSS{Size: 1360}},
				statements{state.SetMark{Value: 7}},
				statements{state.SetMark{Mask: 0xff00, Value: 0x100}},
				statements{state.SetMark{Conntrack: true, Value: 7}},
				statements{state.SetMark{Fields: state.Fields(state.FieldIPDaddr, state.FieldIPProtocol, state.FieldTHDport), Map: "marks"}},
				statements{state.VMapLookup{Fields: state.Fields(state.FieldMark), Map: "dispatch"}},
				statements{state.Masked{Field: state.FieldMark, Mask: 0xff00, Value: 0x100}, state.Accept},
				statements{state.Masked{Field: state.FieldMark, Mask: 0xff000000, Value: 0x87000000}, state.Accept},
				statements{state.Masked{Field: state.FieldMark, Not: true, Mask: 0xff000000, Value: 0x87000000}, state.Accept},
				statements{state.Remember{Fields: state.Fields(state.FieldIPSaddr, state.FieldTHSport), Set: "seen", Timeout: time.Minute}},
				statements{state.Remember{Fields: state.Fields(state.FieldIPSaddr), Set: "affinity", Data: state.Fields(state.FieldMark)}},
				statements{state.Forget{Fields: state.Fields(state.FieldIPSaddr, state.FieldTHSport), Set: "seen"}},
				statements{state.Forget{Fields: state.Fields(state.FieldIPSaddr), Set: "affinity", Data: state.Fields(state.FieldMark)}},
			)},
			{Name: "dnat", Type: state.ChainNAT, Hook: state.HookPrerouting, Priority: state.PriorityDstNAT, Rules: rules(
				statements{ip4, state.NAT{Family: state.IPv4, Fields: state.Fields(state.FieldL4Proto, state.FieldTHDport), Map: "ports", MapHasPort: true}},
				statements{ip6, state.NAT{Family: state.IPv6, Fields: state.Fields(state.FieldL4Proto, state.FieldTHDport), Map: "ports6", MapHasPort: true}},
				statements{state.NAT{Family: state.IPv4, Fields: state.Fields(state.FieldIPDaddr, state.FieldTCPDport, state.Numgen(2)), Map: "endpoints", MapHasPort: true}},
				statements{ip4, tcp, state.NAT{Family: state.IPv4, Fields: state.Fields(state.FieldIPDaddr, state.FieldTCPDport, state.FieldMark), Map: "endpoints", MapHasPort: true, WriteMark: true}},
				statements{ip4, tcp, state.NAT{Family: state.IPv4, Addr: netip.MustParseAddr("10.0.0.1"), Port: 8080}},
				statements{ip4, tcp, state.NAT{Family: state.IPv4, Addr: netip.MustParseAddr("10.0.0.1"), Port: 8080, WriteMark: true, Mark: 0x87000000}},
				statements{ip6, tcp, state.NAT{Family: state.IPv6, Addr: netip.MustParseAddr("fd00::1"), Port: 8080}},
			)},
			{Name: "out-dnat", Type: state.ChainNAT, Hook: state.HookOutput, Priority: state.PriorityDstNAT},
			{Name: "snat", Type: state.ChainNAT, Hook: state.HookPostrouting, Priority: state.PrioritySrcNAT, Rules: rules(
				statements{state.Cmp{Field: state.FieldOIFName, Value: state.IfNameValue("weft*")}, state.Accept},
				statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr), Set: "ranges4"}, state.Masquerade{FullyRandom: true}},
				statements{ip4, state.NAT{Source: true, Family: state.IPv4, Addr: netip.MustParseAddr("10.0.0.1")}},
				statements{state.Masquerade{}},
			)},
			{Name: "late", Type: state.ChainFilter, Hook: state.HookPostrouting, Priority: 300},
			{Name: "soon", Type: state.ChainFilter, Hook: state.HookInput, Priority: 7},
		},
	}
	small := state.Table{
		Family: "inet", Name: state.TableName, Counters: []string{"in"},
		Sets: []state.Set{{Name: "ranges4", Key: []state.DataType{state.TypeIPv4}, Interval: true, Elements: prefixes("10.0.0.0/9")}},
		Chains: []state.Chain{{Name: "entry", Type: state.ChainFilter, Hook: state.HookPrerouting, Priority: state.PriorityRaw, Rules: rules(
			statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr), Set: "ranges4"}, state.Count{Name: "in"}, state.Drop},
		)}},
	}
	return map[string]state.Table{
		"all statements": all,
		"small":          small,
		"empty":          {Family: "inet", Name: state.TableName},
		"other heads":    otherHeads(all),
	}
}

// otherHeads is the table with sets, chains and policies declared differently, so that what refers
// to them has to follow.
func otherHeads(t state.Table) state.Table {
	t.Sets, t.Chains = slices.Clone(t.Sets), slices.Clone(t.Chains)
	for i, s := range t.Sets {
		switch s.Name {
		case "hosts4":
			t.Sets[i].Interval = true
		case "dispatch":
			t.Sets[i].Comment = "new"
		case "pairs":
			t.Sets[i].Elements = nil
		case "ranges4":
			t.Sets[i].Interval = true
			t.Sets[i].Elements = prefixes("10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/8")
		case "ports":
			t.Sets[i].Elements = slices.Clone(s.Elements)
			t.Sets[i].Elements[0].Data = state.Concat(addr("10.9.9.9"), state.PortValue(1))
		}
	}
	for i, c := range t.Chains {
		switch c.Name {
		case "mangle":
			t.Chains[i].Policy = state.PolicyAccept
		case "late":
			t.Chains[i].Priority = 250
		case "snat":
			t.Chains[i].Rules = c.Rules[:2]
		}
	}
	return t
}

// contract is what every Table does.
func contract(t *testing.T, open func(t *testing.T) Table) {
	t.Run("every table from every other", func(t *testing.T) {
		table := open(t)
		tables := sampleTables()
		names := []string{"empty", "small", "all statements", "other heads", "all statements", "small", "other heads", "empty", "other heads", "small", "empty", "all statements"}
		for i, name := range names {
			if _, err := ensure(t.Context(), table, tables[name]); err != nil {
				t.Fatalf("step %d, to %q: %v", i, name, err)
			}
			have, err := table.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c := Diff(have, tables[name]); !c.Empty() {
				t.Fatalf("step %d, to %q: after applying there is still\n%s", i, name, c)
			}
		}
	})
	t.Run("deleted and made again", func(t *testing.T) {
		table, want := open(t), sampleTables()["all statements"]
		for range 2 {
			if _, err := ensure(t.Context(), table, want); err != nil {
				t.Fatal(err)
			}
			if err := table.Apply(t.Context(), Delete(want.Family, want.Name)); err != nil {
				t.Fatal(err)
			}
			have, err := table.Observe(t.Context())
			if err != nil || have.Exists {
				t.Fatalf("after deletion: exists %v, error %v", have.Exists, err)
			}
			if err := table.Apply(t.Context(), Delete(want.Family, want.Name)); err != nil {
				t.Errorf("second deletion: %v", err)
			}
		}
	})
	t.Run("element change alone", func(t *testing.T) {
		table, want := open(t), sampleTables()["small"]
		if _, err := ensure(t.Context(), table, want); err != nil {
			t.Fatal(err)
		}
		want.Sets = slices.Clone(want.Sets)
		want.Sets[0].Elements = prefixes("10.0.0.0/8", "192.0.2.0/24")
		c, err := ensure(t.Context(), table, want)
		if err != nil {
			t.Fatal(err)
		}
		wantChange := strings.Join([]string{
			"delete element inet weftnet ranges4 { 10.0.0.0/9 }",
			"add element inet weftnet ranges4 { 10.0.0.0/8 }",
			"add element inet weftnet ranges4 { 192.0.2.0/24 }",
		}, "\n")
		if c.String() != wantChange {
			t.Errorf("change is\n%s\nwant\n%s", c, wantChange)
		}
	})
	refusals(t, open)
}

// refusals are changes that must be refused as a whole.
func refusals(t *testing.T, open func(t *testing.T) Table) {
	head := func(name string) state.Set {
		for _, s := range sampleSets() {
			if s.Name == name {
				s.Elements = nil
				return s
			}
		}
		return state.Set{}
	}
	base := Change{Family: "inet", Name: state.TableName}
	for name, row := range map[string]struct {
		change func(c *Change)
		want   error
	}{
		"jump to a missing chain": {func(c *Change) {
			c.Rules = []state.Chain{{Name: "helper", Rules: rules(statements{state.Jump("nowhere")})}}
		}, unix.ENOENT},
		"lookup in a missing set": {func(c *Change) {
			c.Rules = []state.Chain{{Name: "helper", Rules: rules(statements{state.InSet{Fields: state.Fields(state.FieldIPSaddr), Set: "nowhere"}})}}
		}, unix.ENOENT},
		"missing counter": {func(c *Change) {
			c.Rules = []state.Chain{{Name: "helper", Rules: rules(statements{state.Count{Name: "nowhere"}})}}
		}, unix.ENOENT},
		"rule in a missing chain": {func(c *Change) {
			c.Rules = []state.Chain{{Name: "nowhere", Rules: rules(statements{state.Accept})}}
		}, unix.ENOENT},
		"chain that exists":     {func(c *Change) { c.Chains = []state.Chain{{Name: "helper"}} }, unix.EEXIST},
		"set that exists":       {func(c *Change) { c.Sets = []state.Set{head("hosts4")} }, unix.EEXIST},
		"chain in use":          {func(c *Change) { c.DelChains = []string{"helper"} }, unix.EBUSY},
		"set in use":            {func(c *Change) { c.DelSets = []string{"ranges4"} }, unix.EBUSY},
		"counter in use":        {func(c *Change) { c.DelCounters = []string{"in"} }, unix.EBUSY},
		"missing chain deleted": {func(c *Change) { c.DelChains = []string{"nowhere"} }, unix.ENOENT},
		"missing set deleted":   {func(c *Change) { c.DelSets = []string{"nowhere"} }, unix.ENOENT},
		"missing chain flushed": {func(c *Change) { c.Flush = []string{"nowhere"} }, unix.ENOENT},
		"element of missing set": {func(c *Change) {
			c.Elements = []ElementChange{{Set: state.Set{Name: "nowhere", Key: []state.DataType{state.TypeIPv4}}, Add: prefixes("10.0.0.1/32")}}
		}, unix.ENOENT},
		"missing element deleted": {func(c *Change) {
			c.Elements = []ElementChange{{Set: head("hosts4"), Delete: prefixes("10.9.9.9/32")}}
		}, unix.ENOENT},
		"overlapping range": {func(c *Change) {
			c.Elements = []ElementChange{{Set: head("ranges4"), Add: prefixes("10.1.0.0/16")}}
		}, unix.EEXIST},
		"key with other data": {func(c *Change) {
			c.Elements = []ElementChange{{Set: head("ports"), Add: []state.Element{
				{Key: state.Concat(state.ProtoValue(6), state.PortValue(80)), Data: state.Concat(addr("10.0.0.3"), state.PortValue(1))},
			}}}
		}, unix.EEXIST},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			table, want := open(t), sampleTables()["all statements"]
			if _, err := ensure(t.Context(), table, want); err != nil {
				t.Fatal(err)
			}
			c := base
			row.change(&c)
			c.Counters = append(c.Counters, "must-not-stay")
			err := table.Apply(t.Context(), c)
			if !errors.Is(err, row.want) {
				t.Errorf("error is %v, want %v", err, row.want)
			}
			have, err := table.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if left := Diff(have, want); !left.Empty() {
				t.Errorf("the refused change left something behind; to repair:\n%s", left)
			}
		})
	}
}

func TestFakeContract(t *testing.T) {
	contract(t, func(*testing.T) Table { return NewFake() })
}

func TestCancelledContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewFake().Observe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

var (
	counts   = regexp.MustCompile(`packets \d+ bytes \d+`)
	elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	spaces   = regexp.MustCompile(`\s+`)
)

// normalise takes out of a listing what carries no meaning: counts, the order of sets and chains,
// the order and the breaking of lines of elements.
func normalise(listing string) string {
	listing = counts.ReplaceAllString(listing, "packets 0 bytes 0")
	listing = elements.ReplaceAllStringFunc(listing, func(s string) string {
		list := strings.Split(strings.Trim(elements.FindStringSubmatch(s)[1], " \n\t"), ",")
		for i := range list {
			list[i] = strings.TrimSpace(spaces.ReplaceAllString(list[i], " "))
		}
		slices.Sort(list)
		return "elements = { " + strings.Join(list, ", ") + " }"
	})
	blocks := strings.Split(strings.TrimSpace(listing), "\n\n")
	first, rest, _ := strings.Cut(blocks[0], "\n")
	blocks[0] = rest
	last := len(blocks) - 1
	blocks[last] = strings.TrimSuffix(blocks[last], "\n}")
	for i := range blocks {
		blocks[i] = strings.TrimRight(blocks[i], "\n ")
	}
	slices.Sort(blocks)
	return first + "\n" + strings.Join(blocks, "\n\n") + "\n}"
}
