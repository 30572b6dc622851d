package audit

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Report is what an audit saw.
type Report struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Packets and Bytes count all frames.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Kinds counts frames by kind.
	Kinds map[Kind]uint64 `json:"kinds"`
	// WireGuard counts WireGuard messages by type.
	WireGuard map[string]uint64 `json:"wireguard"`
	// LeakedPackets and LeakedBytes count the packets in the clear; Leaks
	// describes the first of them.
	LeakedPackets uint64 `json:"leakedPackets"`
	LeakedBytes   uint64 `json:"leakedBytes"`
	Leaks         []Leak `json:"leaks,omitempty"`
	// Dropped counts frames that the kernel saw and the audit did not.
	Dropped uint64 `json:"dropped"`
	// Proofs counts the audit's own clear packets that it found, of Wanted.
	Proofs int `json:"proofs"`
	Wanted int `json:"wanted"`
	// Faults are reasons for which the audit says nothing.
	Faults []string `json:"faults,omitempty"`
}

// Leak is a packet in the clear.
type Leak struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	Flow Flow      `json:"flow"`
	// Address is the one that gives the packet away.
	Address netip.Addr `json:"address"`
	// Bytes is the frame's length on the wire.
	Bytes int `json:"bytes"`
}

// keepLeaks bounds the leaks that are described.
const keepLeaks = 100

// String is the leak for people.
func (l Leak) String() string {
	return fmt.Sprintf("%s %s %s, %d bytes, gives away %s", l.Time.UTC().Format("15:04:05.000000"), l.Kind, l.Flow, l.Bytes, l.Address)
}

// String is the flow for people.
func (f Flow) String() string { return f.Src.String() + " > " + f.Dst.String() }

// String is the endpoint for people.
func (e Endpoint) String() string {
	if e.Port == 0 {
		return e.Addr.String()
	}
	return netip.AddrPortFrom(e.Addr, e.Port).String()
}

// Valid says why the report proves nothing, or nil. An audit that missed
// frames, or did not find its own, must not be taken for a clean one.
func (r Report) Valid() error {
	faults := slices.Clone(r.Faults)
	if r.Dropped > 0 {
		faults = append(faults, fmt.Sprintf("the kernel dropped %d of the frames for it", r.Dropped))
	}
	if r.Proofs < r.Wanted {
		faults = append(faults, fmt.Sprintf("it found %d of its own %d packets", r.Proofs, r.Wanted))
	}
	if len(faults) > 0 {
		return fmt.Errorf("the leak audit is not valid: %s", strings.Join(faults, "; "))
	}
	return nil
}

// Err is nil when the audit is valid and found no leak.
func (r Report) Err() error {
	if r.LeakedPackets > 0 {
		return fmt.Errorf("the leak audit found %d packets (%d bytes) in the clear, first: %s", r.LeakedPackets, r.LeakedBytes, r.Leaks[0])
	}
	return r.Valid()
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Leak audit over %s: %d frames, %d bytes\n", r.End.Sub(r.Start).Round(time.Millisecond), r.Packets, r.Bytes)
	for _, k := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(&b, "  %-10s %d\n", k, r.Kinds[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.WireGuard)) {
		fmt.Fprintf(&b, "  wireguard %s: %d\n", k, r.WireGuard[k])
	}
	fmt.Fprintf(&b, "  own packets found %d of %d, frames missed %d\n", r.Proofs, r.Wanted, r.Dropped)
	fmt.Fprintf(&b, "In the clear: %d packets, %d bytes\n", r.LeakedPackets, r.LeakedBytes)
	for _, l := range r.Leaks {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	if err := r.Valid(); err != nil {
		fmt.Fprintf(&b, "%s\n", err)
	}
	return b.String()
}

// judge turns frames into a report; pure but for what it counts.
type judge struct {
	prefixes []netip.Prefix
	wgPort   uint16
	// proof begins the payload of the audit's own packets, which are not leaks.
	proof  []byte
	proofs map[string]bool
	report Report
}

func newJudge(prefixes []netip.Prefix, wgPort uint16, proof []byte, start time.Time) *judge {
	return &judge{
		prefixes: prefixes, wgPort: wgPort, proof: proof, proofs: map[string]bool{},
		report: Report{Start: start, Kinds: map[Kind]uint64{}, WireGuard: map[string]uint64{}},
	}
}

var wireGuardTypes = [...]string{1: "initiation", 2: "response", 3: "cookie", 4: "data"}

// see counts one frame of which data is the captured beginning.
func (j *judge) see(at time.Time, data []byte, wire int) {
	frame := Decode(data, j.wgPort)
	if len(j.proof) > 0 && bytes.HasPrefix(frame.Payload, j.proof) {
		j.proofs[string(frame.Payload)] = j.inside(frame.Outer.Src.Addr)
		return
	}
	j.report.Packets++
	j.report.Bytes += uint64(wire)
	j.report.Kinds[frame.Kind]++
	if frame.Kind == WireGuard {
		j.report.WireGuard[wireGuardTypes[frame.WireGuardType]]++
	}
	addresses := append([]netip.Addr{frame.Outer.Src.Addr, frame.Outer.Dst.Addr}, frame.Mentioned...)
	for _, a := range addresses {
		if j.inside(a) {
			j.leak(Leak{Time: at, Kind: frame.Kind, Flow: frame.Outer, Address: a, Bytes: wire})
			return
		}
	}
}

func (j *judge) leak(l Leak) {
	j.report.LeakedPackets++
	j.report.LeakedBytes += uint64(l.Bytes)
	if len(j.report.Leaks) < keepLeaks {
		j.report.Leaks = append(j.report.Leaks, l)
	}
}

// inside says whether an address must not be seen. An IPv4 address mapped
// into IPv6 is the same address.
func (j *judge) inside(a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(j.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// found counts the proofs that were judged right.
func (j *judge) found() int {
	count := 0
	for _, good := range j.proofs {
		if good {
			count++
		}
	}
	return count
}

// snapshot is a copy of the report as of now.
func (j *judge) snapshot(now time.Time) Report {
	r := j.report
	r.End, r.Proofs = now, j.found()
	r.Kinds, r.WireGuard = maps.Clone(r.Kinds), maps.Clone(r.WireGuard)
	r.Leaks, r.Faults = slices.Clone(r.Leaks), slices.Clone(r.Faults)
	return r
}
