//go:build linux

package attachlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

const header = "weftnet attachments 1\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry is one change. Exactly one of Add, Del, Cool, Last and Boot is set.
type Entry struct {
	Add *state.Attachment `json:"add,omitempty"`
	Del string            `json:"del,omitempty"`
	// Cool lists released addresses, and Last the last address given of each block: both are
	// what a new file has to say of the entries it leaves out.
	Cool []netip.Addr `json:"cool,omitempty"`
	Last []netip.Addr `json:"last,omitempty"`
	// Boot names the boot to which the times belong.
	Boot string `json:"boot,omitempty"`
	// At is the time of a Del or Cool, in milliseconds since boot.
	At int64 `json:"at,omitempty"`
}

// Released is an address and when it was released, as time since boot.
type Released struct {
	Addr netip.Addr
	At   time.Duration
}

// State is what the entries amount to.
type State struct {
	// Attachments in the order of their making.
	Attachments []state.Attachment
	// Released addresses that nobody has since, in order.
	Released []Released
	// Last are the addresses given, in order, as far as they are needed to go on from there.
	Last []netip.Addr

	boot string
}

// keepLast is how many of the addresses given last are remembered: more than a node has blocks.
const keepLast = 64

func newState() State { return State{} }

func (s *State) clone() State {
	out := State{Released: slices.Clone(s.Released), Last: slices.Clone(s.Last), boot: s.boot}
	for _, a := range s.Attachments {
		out.Attachments = append(out.Attachments, a.Clone())
	}
	return out
}

func (s *State) apply(entries []Entry) {
	for _, e := range entries {
		switch {
		case e.Add != nil:
			s.drop(e.Add.HostLink)
			s.Attachments = append(s.Attachments, e.Add.Clone())
			s.give(e.Add.Addresses)
			s.Released = slices.DeleteFunc(s.Released, func(r Released) bool { return slices.Contains(e.Add.Addresses, r.Addr) })
		case e.Del != "":
			s.release(s.drop(e.Del), e.At)
		case len(e.Cool) > 0:
			s.release(e.Cool, e.At)
		case len(e.Last) > 0:
			s.give(e.Last)
		case e.Boot != "":
			s.boot = e.Boot
		}
	}
}

func (s *State) drop(hostLink string) []netip.Addr {
	i := slices.IndexFunc(s.Attachments, func(a state.Attachment) bool { return a.HostLink == hostLink })
	if i < 0 {
		return nil
	}
	addrs := s.Attachments[i].Addresses
	s.Attachments = slices.Delete(s.Attachments, i, i+1)
	return addrs
}

func (s *State) give(addrs []netip.Addr) {
	s.Last = append(s.Last, addrs...)
	if over := len(s.Last) - keepLast; over > keepLast {
		s.Last = slices.Delete(s.Last, 0, over)
	}
}

func (s *State) release(addrs []netip.Addr, at int64) {
	for _, a := range addrs {
		s.Released = append(s.Released, Released{a, time.Duration(at) * time.Millisecond})
	}
}

// toBoot moves the times to the current boot: what was released in an earlier one counts from now.
func (s *State) toBoot(boot string, now time.Duration) {
	if s.boot == boot {
		return
	}
	for i := range s.Released {
		s.Released[i].At = now
	}
	s.boot = boot
}

func (s *State) trim(now, keep time.Duration) {
	s.Released = slices.DeleteFunc(s.Released, func(r Released) bool { return r.At+keep <= now })
}

// entries are the fewest that give the state.
func (s *State) entries() []Entry {
	out := []Entry{{Boot: s.boot}}
	for _, r := range s.Released {
		out = append(out, Entry{Cool: []netip.Addr{r.Addr}, At: r.At.Milliseconds()})
	}
	for i := range s.Attachments {
		out = append(out, Entry{Add: &s.Attachments[i]})
	}
	if len(s.Last) > 0 {
		out = append(out, Entry{Last: s.Last})
	}
	return out
}

// formatLine begins a line as well as ending it, so that one lost newline cannot join two batches.
func formatLine(entries []Entry) ([]byte, error) {
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("format attachments: %w", err)
	}
	line := fmt.Appendf(nil, "\n%08x ", crc32.Checksum(text, castagnoli))
	return append(append(line, text...), '\n'), nil
}

// parsed is what a file says.
type parsed struct {
	state  State
	torn   bool
	damage string
}

func parse(data []byte) parsed {
	p := parsed{state: newState()}
	rest, ok := bytes.CutPrefix(data, []byte(header))
	if !ok {
		p.damage = "its header is missing"
	}
	bad := 0
	for number := 2; len(rest) > 0; number++ {
		line, after, _ := bytes.Cut(rest, []byte{'\n'})
		rest = after
		text := bytes.TrimLeft(line, "\x00")
		if len(text) == 0 {
			continue
		}
		entries, ok := parseLine(text)
		if !ok || len(text) < len(line) {
			bad = max(bad, number)
		}
		if ok && bad > 0 && p.damage == "" {
			p.damage = fmt.Sprintf("line %d is not what was written", bad)
		}
		if ok {
			p.state.apply(entries)
		}
	}
	p.torn = bad > 0 && p.damage == ""
	return p
}

func parseLine(line []byte) ([]Entry, bool) {
	if len(line) < 9 || line[8] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[9:], castagnoli) {
		return nil, false
	}
	var entries []Entry
	if err := json.Unmarshal(line[9:], &entries); err != nil {
		return nil, false
	}
	return entries, true
}
