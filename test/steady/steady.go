//go:build linux

// Package steady sends small UDP packets at a steady rate from one network namespace to another and tells
// which have arrived, for tests in which not one may be lost.
package steady

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/nstest"
)

const (
	// datagram is the size of what is sent, in bytes; the first eight are its number.
	datagram = 100
	// burst is the most that is sent at once. A virtual machine may stand still for a second; a sender that then
	// makes up for all that it missed is no steady one: it sends more than the queues on the way can hold
	// (500 packets before a TUN device).
	burst = 50
	// buffer of the receiving socket, in bytes, of which the kernel makes twice as many: 20 seconds of 1,000 packets, at
	// 768 bytes of the kernel's memory each, for as long as this program is not given a processor.
	buffer = 8 << 20
	// silence after which nothing more is on its way.
	silence = 2 * time.Second
)

// Flow of packets.
type Flow struct {
	in, out *net.UDPConn
	sending chan struct{}
	counted chan struct{}
	missing missing
	arrived atomic.Int64
	// pause is the longest between two packets that were sent.
	pause time.Duration
	// unsent are the packets that the kernel did not take, which are lost as well; refused is its last reason.
	unsent  atomic.Int64
	refused error
}

// missing are the numbers that have not arrived.
type missing map[uint64]bool

// String gives ranges, the first ten of them.
func (m missing) String() string {
	var ranges []string
	numbers := slices.Sorted(maps.Keys(m))
	for i := 0; i < len(numbers); {
		if len(ranges) == 10 {
			return strings.Join(append(ranges, "..."), ", ")
		}
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		text := strconv.FormatUint(numbers[i], 10)
		if end > i {
			text += "-" + strconv.FormatUint(numbers[end], 10)
		}
		ranges, i = append(ranges, text), end+1
	}
	return strings.Join(ranges, ", ")
}

// Start sends packets to an address in the namespace to, perSecond of them, from another namespace, until so many as are
// wanted have been sent, at once as many as fit into a moment: where the machine stands still, the flow takes longer.
func Start(tb testing.TB, from, to *nstest.Namespace, target netip.AddrPort, perSecond, packets int) *Flow {
	tb.Helper()
	f := &Flow{sending: make(chan struct{}), counted: make(chan struct{}), missing: missing{}}
	var err error
	to.Do(tb, func() {
		if f.in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(target)); err == nil {
			err = deepen(f.in)
		}
	})
	if err != nil {
		tb.Fatalf("listen on %s: %v", target, err)
	}
	tb.Cleanup(func() { _ = f.in.Close() })
	from.Do(tb, func() { f.out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target)) })
	if err != nil {
		tb.Fatalf("open the way to %s: %v", target, err)
	}
	tb.Cleanup(func() { _ = f.out.Close() })
	for n := range packets {
		f.missing[uint64(n)] = true
	}
	go f.count()
	go f.send(perSecond, packets)
	return f
}

// deepen gives the socket more room than others may have.
func deepen(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt SO_RCVBUFFORCE", set)
}

func (f *Flow) send(perSecond, packets int) {
	defer close(f.sending)
	interval := time.Second / time.Duration(perSecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	payload := make([]byte, datagram)
	last := time.Now()
	p := pace{interval: interval, next: last}
	for sent := 0; sent < packets; <-ticker.C {
		for range min(p.due(time.Now()), packets-sent) {
			now := time.Now()
			f.pause, last = max(f.pause, now.Sub(last)), now
			binary.BigEndian.PutUint64(payload, uint64(sent))
			sent++
			if _, err := f.out.Write(payload); errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				f.refused = err
				f.unsent.Add(1)
			}
		}
	}
}

// pace tells how many packets are due.
type pace struct {
	interval time.Duration
	next     time.Time
}

// due counts those due since it was last asked, of which it forgets all beyond a burst.
func (p *pace) due(now time.Time) int {
	late := now.Sub(p.next)
	if late < 0 {
		return 0
	}
	n := int(late/p.interval) + 1
	p.next = p.next.Add(time.Duration(n) * p.interval)
	return min(n, burst)
}

// count reads until all have come, or nothing more comes: not once, since a deadline may pass while the machine stands still
// and what has come waits to be read.
func (f *Flow) count() {
	defer close(f.counted)
	payload := make([]byte, datagram+1)
	for silences := 0; len(f.missing) > 0 && silences < 2; {
		over := f.over()
		if err := f.in.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return
		}
		n, err := f.in.Read(payload)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && over:
			silences++
		case errors.Is(err, os.ErrDeadlineExceeded): // cut, or not begun
		case err != nil:
			return
		case n == datagram:
			silences = 0
			delete(f.missing, binary.BigEndian.Uint64(payload))
			f.arrived.Add(1)
		}
	}
}

// over tells whether all has been sent.
func (f *Flow) over() bool {
	select {
	case <-f.sending:
		return true
	default:
		return false
	}
}

// Arrived counts the packets that have come so far.
func (f *Flow) Arrived() int { return int(f.arrived.Load()) }

// Pause is the longest time in which nothing was sent, once all has been: what happened meanwhile
// has met no packet.
func (f *Flow) Pause() time.Duration {
	<-f.sending
	return f.pause
}

// Lost waits until all has been sent and has come, or comes no more, and counts what was lost. The text tells which,
// for whoever looks for the cause.
func (f *Flow) Lost() (lost int, which string) {
	<-f.sending
	<-f.counted
	if len(f.missing) == 0 {
		return 0, ""
	}
	which = "those with the numbers " + f.missing.String()
	if n := f.unsent.Load(); n > 0 {
		which += fmt.Sprintf("; %d could not be sent at all: %v", n, f.refused)
	}
	return len(f.missing), which
}
