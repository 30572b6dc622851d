//go:build linux

package flow

import (
	"bytes"
	_ "embed" // the compiled program
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// object is program/flow.c, compiled; `make generate` writes it.
//
//go:embed program/flow.o
var object []byte

// Names in program/flow.c.
const (
	programName     = "weft_flow"
	echoProgramName = "weft_echo"
	tablePods       = "pods"
	tableOutcomes   = "outcomes"
	tableEchoes     = "echoes"
)

// notesEach is how many notes each processor has room for: an LRU table keeps 128 free elements for each of them, and makes room
// from what is in use when they are all there is.
const notesEach, minNotes = 256, 4096

// maxAddresses of a node; it costs 16 bytes each. Pods beyond it stay on the ordinary way.
const maxAddresses = 16384

// address and podValue are the key and the value of the table of Pods, field by field those of
// program/flow.c.
type (
	address  [16]byte
	podValue struct {
		Address   address
		Link, MTU uint32
	}
)

func toAddress(a netip.Addr) address { return a.As16() }

func toValue(p state.FlowPod) podValue {
	return podValue{Address: toAddress(p.Addr), Link: uint32(p.Index), MTU: uint32(p.MTU)}
}

// objects are the programs and their tables in this kernel.
type objects struct {
	*ebpf.Collection
	programs programs
	// noEchoes is why this kernel does not take the program of echoes; nil where it does.
	noEchoes error
	// generation is that of the notes that hold.
	generation uint32
}

// load leaves out the program of echoes where the kernel takes the other one only.
func load() (*objects, error) {
	o, err := loadOf(programName, echoProgramName)
	if err == nil {
		return o, nil
	}
	o, alone := loadOf(programName)
	if alone != nil {
		return nil, alone
	}
	o.noEchoes = err
	return o, nil
}

func loadOf(names ...string) (*objects, error) {
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read the compiled program: %w", err)
	}
	s.Maps[tablePods].MaxEntries = maxAddresses
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	s.Maps[tableEchoes].MaxEntries = uint32(max(minNotes, notesEach*processors))
	maps.DeleteFunc(s.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(names, name) })
	c, err := ebpf.NewCollection(s)
	if err != nil {
		return nil, fmt.Errorf("load the program: %w", err)
	}
	o := &objects{Collection: c}
	for _, h := range hooks {
		p, there := c.Programs[h.program()]
		if !there {
			continue
		}
		info, err := p.Info()
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("look at the program: %w", err)
		}
		id, _ := info.ID()
		o.programs[h] = int(id)
	}
	return o, nil
}

// setFresh says how much time entries need to have left, and for how long a note holds.
func (o *objects) setFresh(f state.FlowFresh) error {
	tick, err := jiffy()
	if err != nil {
		return err
	}
	var faults []error
	for name, d := range map[string]time.Duration{"fresh_tcp": f.TCP, "fresh_udp": f.UDP, "fresh_udp_stream": f.UDPStream, "valid_echo": f.Echo} {
		faults = append(faults, o.set(name, jiffies(d, tick)))
	}
	return errors.Join(faults...)
}

func (o *objects) set(name string, value uint32) error {
	if err := o.Variables[name].Set(value); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// voidEchoes voids all notes. Those that are made of what was there before are void as well: the program reads the
// generation first.
func (o *objects) voidEchoes() error {
	o.generation++
	return o.set("generation", o.generation)
}

// jiffies is at least one of anything; the kernel counts time to live in 31 bits.
func jiffies(d, tick time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(max(1, min(int64(d/tick), 1<<31-1)))
}

// jiffy is the kernel's unit of time: the coarse clock goes by it (clock_getres(2)).
func jiffy() (time.Duration, error) {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil {
		return 0, fmt.Errorf("read the kernel's unit of time: %w", err)
	}
	return time.Duration(res.Nano()), nil
}

func (o *objects) put(p state.FlowPod) error {
	if err := o.Maps[tablePods].Put(toAddress(p.Addr), toValue(p)); err != nil {
		return fmt.Errorf("put %s: %w", p, err)
	}
	return nil
}

func (o *objects) remove(a netip.Addr) error {
	if err := o.Maps[tablePods].Delete(toAddress(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %s: %w", a, err)
	}
	return nil
}

// Stats are figures for metrics.
type Stats struct {
	// Fast and Ordinary count the packets between two Pods of this node by the way they took. Those of
	// protocols other than TCP and UDP that are no echoes of ICMP, and those that begin or end a connection, are in neither.
	Fast, Ordinary uint64
	// Pods are the addresses in the table.
	Pods int
	// NoEchoes says that this kernel does not take the program of echoes of ICMP, all of which take the ordinary way.
	NoEchoes bool
}

func (o *objects) count(outcome uint32) (uint64, error) {
	var perCPU []uint64
	if err := o.Maps[tableOutcomes].Lookup(outcome, &perCPU); err != nil {
		return 0, fmt.Errorf("read the counters: %w", err)
	}
	var total uint64
	for _, n := range perCPU {
		total += n
	}
	return total, nil
}
