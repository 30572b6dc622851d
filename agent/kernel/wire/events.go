//go:build linux

package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Events is a netlink socket for multicast groups, of the network namespace of the thread that
// opened it. It hears nothing until Read.
type Events struct {
	file    *os.File
	groups  []int
	reading atomic.Bool

	// mu is held while groups are joined and left.
	mu      sync.Mutex
	changed func() // of the subscription that runs
}

// NewEvents opens a socket for groups of a protocol.
func NewEvents(protocol int, groups ...int) (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink event socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind netlink event socket: %w", err)
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	return &Events{file: os.NewFile(uintptr(fd), "netlink events"), groups: groups}, nil
}

// Close ends the socket, and a Read of it.
func (e *Events) Close() error { return e.file.Close() }

// Ignore leaves out what requests of the sockets with these ports cause: our own. The kernel drops it
// before it is queued, so that a bulk of our own changes neither crowds out what others do nor wakes
// anybody. A second call replaces the first.
func (e *Events) Ignore(ports ...uint32) error {
	program := ignoring(ports)
	rc, err := e.file.SyscallConn()
	if err != nil {
		return err
	}
	var fault error
	err = rc.Control(func(fd uintptr) {
		fault = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err := errors.Join(err, fault); err != nil {
		return fmt.Errorf("filter netlink events: %w", err)
	}
	return nil
}

// ignoring is a filter that drops datagrams with one of the ports in the header of their first message;
// those of one event have one cause.
func ignoring(ports []uint32) []unix.SockFilter {
	const portAt = 12
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portAt}}
	for i, port := range ports {
		wanted := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port)) // the filter loads in network order
		drop := uint8(len(ports) - i)                                                  // past the ports that follow, and the keeping
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: wanted, Jt: drop})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 30}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// Reading tells whether a Subscribe runs.
func (e *Events) Reading() bool { return e.reading.Load() }

// ErrSubscribed says that only one subscription may run on a socket at a time.
var ErrSubscribed = errors.New("already subscribed")

// Deadlines for a read: one that has passed wakes the reader, none lets it wait.
var (
	aLongTimeAgo = time.Unix(1, 0)
	noDeadline   time.Time
)

// Subscribe tells on the channel when a message concerns us, or when messages were lost; several at
// once are told as one. tell, if not nil, is called before that. It ends, and closes the channel, with
// ctx or when the socket is closed.
func (e *Events) Subscribe(ctx context.Context, concerns func(Message) bool, tell func()) (<-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reading.Load() {
		return nil, ErrSubscribed
	}
	if err := e.member(unix.NETLINK_ADD_MEMBERSHIP); err != nil {
		return nil, fmt.Errorf("join netlink group: %w", err)
	}
	_ = e.file.SetReadDeadline(noDeadline)
	wake := context.AfterFunc(ctx, func() { _ = e.file.SetReadDeadline(aLongTimeAgo) })
	out := make(chan struct{}, 1)
	changed := func() {
		if tell != nil {
			tell()
		}
		select {
		case out <- struct{}{}:
		default:
		}
	}
	e.changed = changed
	e.reading.Store(true)
	go func() {
		defer close(out)
		defer wake()
		e.read(ctx, concerns, changed)
		e.mu.Lock()
		defer e.mu.Unlock()
		_ = e.member(unix.NETLINK_DROP_MEMBERSHIP)
		e.changed = nil
		e.reading.Store(false)
	}()
	return out, nil
}

// Pause hears nothing until Resume: where nobody listens the kernel does not even make its messages. It does
// nothing while no subscription runs.
func (e *Events) Pause() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.reading.Load() {
		return nil
	}
	return e.member(unix.NETLINK_DROP_MEMBERSHIP)
}

// Resume listens again. Where that fails the subscription ends, rather than hear nothing.
func (e *Events) Resume() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.reading.Load() {
		return nil
	}
	err := e.member(unix.NETLINK_ADD_MEMBERSHIP)
	if err != nil {
		_ = e.file.SetReadDeadline(aLongTimeAgo)
	}
	return err
}

// Missed tells the subscription that runs, as if messages had been lost.
func (e *Events) Missed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.changed != nil {
		e.changed()
	}
}

func (e *Events) member(option int) error {
	rc, err := e.file.SyscallConn()
	if err != nil {
		return err
	}
	var faults []error
	err = rc.Control(func(fd uintptr) {
		for _, g := range e.groups {
			faults = append(faults, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, g))
		}
	})
	return errors.Join(append(faults, err)...)
}

func (e *Events) read(ctx context.Context, concerns func(Message) bool, changed func()) {
	buf := make([]byte, replySize)
	for ctx.Err() == nil {
		n, err := e.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			changed() // events were lost: anything may have happened
		case err != nil:
			return
		case anyMessage(buf[:n], concerns):
			changed()
		}
	}
}

// Message is one event, or one reply.
type Message struct {
	Type, Flags uint16
	// Seq is that of the request that it answers.
	Seq uint32
	// Port is the address of the socket whose request caused it; 0 is the kernel itself.
	Port uint32
	Data []byte
}

// messages takes a datagram apart; it stops at the first message that does not fit.
func messages(b []byte) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			n := int(binary.NativeEndian.Uint32(b))
			if n < unix.SizeofNlMsghdr || n > len(b) {
				return
			}
			m := Message{
				Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq: binary.NativeEndian.Uint32(b[8:]), Port: binary.NativeEndian.Uint32(b[12:]), Data: b[unix.SizeofNlMsghdr:n],
			}
			if !yield(m) {
				return
			}
			b = b[min(Align(n), len(b)):]
		}
	}
}

func anyMessage(b []byte, f func(Message) bool) bool {
	for m := range messages(b) {
		if f(m) {
			return true
		}
	}
	return false
}
