package state

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// String prints the table as `nft list table` does: counters at zero, elements one to a line.
func (t Table) String() string {
	t = t.Sorted()
	var blocks []string
	for _, c := range t.Counters {
		blocks = append(blocks, fmt.Sprintf("\tcounter %s {\n\t\tpackets 0 bytes 0\n\t}\n", c))
	}
	for _, s := range t.Sets {
		blocks = append(blocks, s.String())
	}
	for _, c := range t.Chains {
		blocks = append(blocks, c.String())
	}
	return fmt.Sprintf("table %s %s {\n%s}\n", t.Family, t.Name, strings.Join(blocks, "\n"))
}

// String prints the chain as `nft list` does within its table.
func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
	if c.IsBase() {
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy %s;\n",
			c.Type, c.Hook, priorityText(c.Hook, c.Priority), c.EffectivePolicy())
	}
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

// priorityText prints a priority by the name of the nearest standard one within 10, as nft does.
func priorityText(hook Hook, p int32) string {
	const reach = 10
	for _, std := range []struct {
		name  string
		value int32
		only  Hook
	}{
		{"raw", PriorityRaw, ""},
		{"mangle", PriorityMangle, ""},
		{"dstnat", PriorityDstNAT, HookPrerouting},
		{"filter", PriorityFilter, ""},
		{"security", PrioritySecurity, ""},
		{"srcnat", PrioritySrcNAT, HookPostrouting},
	} {
		offset := p - std.value
		if offset < -reach || offset > reach || (std.only != "" && std.only != hook) {
			continue
		}
		switch {
		case offset > 0:
			return fmt.Sprintf("%s + %d", std.name, offset)
		case offset < 0:
			return fmt.Sprintf("%s - %d", std.name, -offset)
		default:
			return std.name
		}
	}
	return strconv.Itoa(int(p))
}

// String prints the set or map as `nft list` does within its table, one element to a line.
func (s Set) String() string {
	var b strings.Builder
	word := "map"
	if s.Kind == KindSet {
		word = "set"
	}
	fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", word, s.Name, s.typeText())
	if s.Size > 0 {
		fmt.Fprintf(&b, "\t\tsize %d\n", s.Size)
	}
	if flags := s.flagsText(); flags != "" {
		fmt.Fprintf(&b, "\t\tflags %s\n", flags)
	}
	if s.ElementCounters {
		b.WriteString("\t\tcounter\n")
	}
	if s.Timeout > 0 {
		fmt.Fprintf(&b, "\t\ttimeout %s\n", nftDuration(s.Timeout))
	}
	if s.Comment != "" {
		fmt.Fprintf(&b, "\t\tcomment %s\n", strconv.Quote(s.Comment))
	}
	if len(s.Elements) > 0 && !s.Dynamic {
		lines := make([]string, 0, len(s.Elements))
		for _, e := range SortElements(s.Elements) {
			lines = append(lines, s.FormatElement(e))
		}
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n")
	return b.String()
}

func (s Set) typeText() string {
	join := func(types []DataType) string {
		names := make([]string, len(types))
		for i, t := range types {
			names[i] = t.String()
		}
		return strings.Join(names, " . ")
	}
	switch s.Kind {
	case KindMap:
		return join(s.Key) + " : " + join(s.Data)
	case KindVMap:
		return join(s.Key) + " : verdict"
	case KindSet:
	}
	return join(s.Key)
}

func (s Set) flagsText() string {
	var flags []string
	if s.Interval {
		flags = append(flags, "interval")
	}
	if s.Dynamic {
		flags = append(flags, "dynamic")
	}
	if s.HasTimeout || s.Timeout > 0 {
		flags = append(flags, "timeout")
	}
	return strings.Join(flags, ",")
}

// FormatElement prints one element of the set as nft does.
func (s Set) FormatElement(e Element) string {
	out := s.formatRange(e)
	if s.ElementCounters {
		out += " counter packets 0 bytes 0"
	}
	if e.Comment != "" {
		out += " comment " + strconv.Quote(e.Comment)
	}
	switch s.Kind {
	case KindMap:
		out += " : " + FormatKey(e.Data, s.Data)
	case KindVMap:
		out += " : " + e.Verdict.String()
	case KindSet:
	}
	return out
}

func (s Set) formatRange(e Element) string {
	if e.KeyEnd == "" || e.KeyEnd == e.Key {
		return FormatKey(e.Key, s.Key)
	}
	from, to := SplitValue(e.Key, s.Key), SplitValue(e.KeyEnd, s.Key)
	if from == nil || to == nil {
		return FormatKey(e.Key, s.Key)
	}
	out := make([]string, len(from))
	for i, t := range s.Key {
		out[i] = formatOneRange(from[i], to[i], t)
	}
	return strings.Join(out, " . ")
}

func formatOneRange(from, to Value, t DataType) string {
	if from == to {
		return from.Format(t)
	}
	if t == TypeIPv4 || t == TypeIPv6 {
		if n, ok := prefixLength(from, to); ok {
			a, _ := netip.AddrFromSlice([]byte(from))
			return netip.PrefixFrom(a, n).String()
		}
	}
	return from.Format(t) + "-" + to.Format(t)
}

// prefixLength tells whether a range is exactly one prefix, and how long that is.
func prefixLength(from, to Value) (int, bool) {
	n := 0
	for i := range len(from) {
		if from[i] == to[i] {
			n += 8
			continue
		}
		diff := from[i] ^ to[i]
		n += bits.LeadingZeros8(diff)
		break
	}
	a, ok := netip.AddrFromSlice([]byte(from))
	if !ok {
		return 0, false
	}
	p := netip.PrefixFrom(a, n)
	return n, p.Masked().Addr() == a && AddrValue(lastAddr(p)) == to
}

// nftDuration prints a time as nft does, for example 3h or 1m30s.
func nftDuration(d time.Duration) string {
	var b strings.Builder
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	return b.String()
}
