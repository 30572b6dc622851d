package state

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

func not(b bool) string {
	if b {
		return "!= "
	}
	return ""
}

func (m Cmp) String() string {
	return fmt.Sprintf("%s %s%s", m.Field, not(m.Not), m.Value.Format(m.Field.Type()))
}

func (m InPrefix) String() string {
	if m.Prefix.IsSingleIP() {
		return fmt.Sprintf("%s %s%s", m.Field, not(m.Not), m.Prefix.Addr())
	}
	return fmt.Sprintf("%s %s%s", m.Field, not(m.Not), m.Prefix.Masked())
}

func (m Masked) String() string {
	if ones := bits.LeadingZeros32(^m.Mask); m.Mask<<ones == 0 && ones > 0 && ones < 32 {
		return fmt.Sprintf("%s %s0x%08x/%d", m.Field, not(m.Not), m.Value, ones) // as nft prints a mask of leading ones
	}
	op := "=="
	if m.Not {
		op = "!="
	}
	return fmt.Sprintf("%s & 0x%08x %s 0x%08x", m.Field, m.Mask, op, m.Value)
}

// bitName is one flag's word.
type bitName struct {
	bit  uint32
	name string
}

// bitNames joins the words of the flags that are set, in the order of the table.
func bitNames(v uint32, names []bitName) string {
	var out []string
	for _, n := range names {
		if v&n.bit != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

func (m CTState) String() string {
	return "ct state " + not(m.Not) + bitNames(uint32(m.States), []bitName{
		{1, "invalid"}, {2, "established"}, {4, "related"}, {8, "new"}, {64, "untracked"},
	})
}

func (m CTStatus) String() string {
	return "ct status " + not(m.Not) + bitNames(uint32(m.Status), []bitName{
		{1 << 1, "seen-reply"}, {1 << 3, "confirmed"}, {1 << 4, "snat"}, {1 << 5, "dnat"},
	})
}

func (m TCPFlags) String() string {
	names := []bitName{{uint32(TCPFin), "fin"}, {uint32(TCPSyn), "syn"}, {uint32(TCPRst), "rst"}}
	return fmt.Sprintf("tcp flags %s / %s", bitNames(uint32(m.Value), names), bitNames(uint32(m.Mask), names))
}

func (m InSet) String() string {
	return fmt.Sprintf("%s %s@%s", fieldsText(m.Fields), not(m.Not), m.Set)
}

func (m VMapLookup) String() string { return fmt.Sprintf("%s vmap @%s", fieldsText(m.Fields), m.Map) }

func (s Count) String() string {
	if s.Name == "" {
		return "counter packets 0 bytes 0"
	}
	return "counter name " + strconv.Quote(s.Name)
}

func (s SetMark) String() string {
	target := "meta mark"
	if s.Conntrack {
		target = "ct mark"
	}
	switch {
	case s.Map != "":
		return fmt.Sprintf("%s set %s map @%s", target, fieldsText(s.Fields), s.Map)
	case s.Mask == 0 || s.Mask == ^uint32(0):
		return fmt.Sprintf("%s set 0x%08x", target, s.Value)
	case s.Mask == s.Value:
		return fmt.Sprintf("%s set %s | 0x%08x", target, target, s.Value)
	case s.Value == 0:
		return fmt.Sprintf("%s set %s & 0x%08x", target, target, ^s.Mask)
	default:
		return fmt.Sprintf("%s set %s & 0x%08x | 0x%08x", target, target, ^s.Mask|s.Value, s.Value)
	}
}

func (s NAT) String() string {
	verb, family := "dnat", "ip"
	if s.Source {
		verb = "snat"
	}
	if s.Family == IPv6 {
		family = "ip6"
	}
	if s.WriteMark {
		verb = SetMark{Value: s.Mark}.String() + " " + verb
	}
	if s.Map != "" {
		return fmt.Sprintf("%s %s to %s map @%s", verb, family, fieldsText(s.Fields), s.Map)
	}
	to := s.Addr.String()
	if s.Port != 0 {
		if s.Family == IPv6 {
			to = "[" + to + "]"
		}
		to += ":" + strconv.Itoa(int(s.Port))
	}
	return fmt.Sprintf("%s %s to %s", verb, family, to)
}

func (s Masquerade) String() string {
	if s.FullyRandom {
		return "masquerade fully-random"
	}
	return "masquerade"
}

func (s Reject) String() string {
	switch s.With {
	case RejectReset:
		return "reject with tcp reset"
	case RejectAdmin:
		return "reject with icmpx admin-prohibited"
	case RejectPort:
	}
	return "reject"
}

func (s ClampMSS) String() string {
	if s.Size == 0 {
		return "tcp option maxseg size set rt mtu"
	}
	return "tcp option maxseg size set " + strconv.Itoa(int(s.Size))
}

func (Notrack) String() string { return "notrack" }

func (s Limit) String() string {
	return fmt.Sprintf("limit rate %d/second burst %d packets", s.Rate, s.Burst)
}

func (s Log) String() string {
	return fmt.Sprintf("log prefix %s group %d", strconv.Quote(s.Prefix), s.Group)
}

func (s Remember) String() string {
	out := fmt.Sprintf("update @%s { %s", s.Set, fieldsText(s.Fields))
	if s.Timeout != 0 {
		out += " timeout " + nftDuration(s.Timeout)
	}
	if len(s.Data) > 0 {
		out += " : " + fieldsText(s.Data)
	}
	return out + " }"
}

func (s Forget) String() string {
	if len(s.Data) > 0 {
		return fmt.Sprintf("delete @%s { %s : %s }", s.Set, fieldsText(s.Fields), fieldsText(s.Data))
	}
	return fmt.Sprintf("delete @%s { %s }", s.Set, fieldsText(s.Fields))
}

// String prints the rule as one line.
func (r ChainRule) String() string {
	parts := make([]string, 0, len(r.Statements)+1)
	for _, s := range r.Statements {
		parts = append(parts, s.String())
	}
	if r.Comment != "" {
		parts = append(parts, "comment "+strconv.Quote(r.Comment))
	}
	return strings.Join(parts, " ")
}
