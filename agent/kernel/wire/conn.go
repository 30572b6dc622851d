//go:build linux

package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/prompt"
)

// Conn is a netlink socket for requests. It belongs to the network namespace of the thread that
// opened it, and may be used from any. Replies are told apart by sequence number, so that an
// abandoned request cannot disturb the next one.
type Conn struct {
	mu   sync.Mutex
	fd   int
	port uint32
	seq  uint32
	buf  []byte

	eager eager
	clock func() time.Time
}

const (
	sendBuffer    = 32 << 20 // one nftables transaction of some 100,000 elements
	receiveBuffer = 8 << 20
	replySize     = 256 << 10
	replyTimeout  = 30 // seconds; a transaction of 100,000 elements takes a few
)

// Dial opens a socket of a protocol such as unix.NETLINK_ROUTE.
func Dial(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{fd: fd, buf: make([]byte, replySize), clock: time.Now}
	if err := c.setUp(); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *Conn) setUp() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return fmt.Errorf("read netlink socket's port: %w", err)
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		c.port = nl.Pid
	}
	setBuffer(c.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer)
	setBuffer(c.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	// Old kernels lack some of these: errors are then longer and less clear, and listings are
	// filtered here instead of there.
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, option, 1)
	}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: replyTimeout}); err != nil {
		return fmt.Errorf("set netlink socket's timeout: %w", err)
	}
	return nil
}

// setBuffer asks for a buffer beyond the system's limit, which needs CAP_NET_ADMIN in the first
// user namespace, and else takes what it may have.
func setBuffer(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
}

// Port is the address of the socket, which events carry that its requests cause.
func (c *Conn) Port() uint32 { return c.port }

// Close ends the socket. A request that comes later fails: the descriptor's number may be another's by then.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// Frame appends one netlink message.
func Frame(b []byte, typ, flags uint16, seq uint32, payload []byte) []byte {
	n := unix.SizeofNlMsghdr + len(payload)
	b = binary.NativeEndian.AppendUint32(b, uint32(n))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, payload...)
	return append(b, make([]byte, Align(n)-n)...)
}

// Exchange takes count sequence numbers, sends what build makes of the first of them, and gives
// every reply to them to done, until done says that it was the last.
func (c *Conn) Exchange(count uint32, build func(first uint32) []byte, done func(syscall.NetlinkMessage) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exchange(count, build, done, c.send, c.read)
}

// ExchangePromptly is Exchange for a transaction that, where it is short, the kernel has done at once and without waiting for anybody
// but another transaction: it is sent as what does not block (package prompt). It is not for listings.
func (c *Conn) ExchangePromptly(count uint32, build func(first uint32) []byte, done func(syscall.NetlinkMessage) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exchange(count, build, done, c.sendPromptly, c.readPromptly)
}

// Patiently has all requests sent in the ordinary way for a while: another program makes transactions.
func (c *Conn) Patiently() { c.eager.wait(c.clock()) }

// Patient tells whether they are.
func (c *Conn) Patient() bool { return !c.eager.may(0, c.clock()) }

func (c *Conn) exchange(count uint32, build func(first uint32) []byte, done func(syscall.NetlinkMessage) bool, send func([]byte) error, read func() ([]byte, error)) error {
	first := c.seq + 1
	c.seq += count
	if err := send(build(first)); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	for {
		replies, err := receive(read)
		if err != nil {
			return fmt.Errorf("read netlink reply: %w", err)
		}
		for _, r := range replies {
			if r.Header.Seq-first < count && done(r) {
				return nil
			}
		}
	}
}

func (c *Conn) send(request []byte) error {
	return unix.Sendto(c.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (c *Conn) sendPromptly(request []byte) error {
	began := c.clock()
	if !c.eager.may(len(request), began) {
		return c.send(request)
	}
	err := prompt.Send(uintptr(c.fd), request)
	now := c.clock()
	c.eager.took(now.Sub(began), now)
	return err
}

// ErrInterrupted says that what was listed changed meanwhile, so that the list may be wrong.
var ErrInterrupted = errors.New("listing was interrupted by a change")

// Do sends one request and returns the payloads of its replies; with NLM_F_DUMP in flags it lists.
// The error is the kernel's unix.Errno, or ErrInterrupted.
func (c *Conn) Do(typ, flags uint16, payload []byte) ([][]byte, error) {
	if flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
		flags |= unix.NLM_F_ACK
	}
	var out [][]byte
	var result error
	err := c.Exchange(1, func(seq uint32) []byte { return Frame(nil, typ, flags, seq, payload) },
		func(m syscall.NetlinkMessage) bool {
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				result = ErrInterrupted
			}
			if m.Header.Type != unix.NLMSG_ERROR && m.Header.Type != unix.NLMSG_DONE {
				out = append(out, m.Data)
				return false
			}
			if errno := Errno(m); errno != 0 {
				result = errno
			}
			return true
		})
	if err != nil || result != nil {
		return nil, errors.Join(err, result)
	}
	return out, nil
}

// maxDumpTries bounds how often List repeats a listing that changes kept disturbing.
const maxDumpTries = 10

// List is Do for a listing, repeated while changes interrupt it.
func (c *Conn) List(typ uint16, payload []byte) ([][]byte, error) {
	var err error
	for range maxDumpTries {
		var out [][]byte
		if out, err = c.Do(typ, unix.NLM_F_DUMP, payload); !errors.Is(err, ErrInterrupted) && !errors.Is(err, unix.EINTR) {
			return out, err
		}
	}
	return nil, err
}

// Each lists, and gives each the payload of every reply as it comes, which is valid only until each
// returns. The kernel makes the next part of the listing when this one has been looked at, so that however
// long it is, no more than one datagram of it is in memory. each must not use c. A listing that a change
// interrupts is not repeated; the error is then ErrInterrupted, after all of it has been given, and else
// the kernel's unix.Errno.
func (c *Conn) Each(typ uint16, payload []byte, each func([]byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	request := Frame(nil, typ, unix.NLM_F_DUMP, c.seq, payload)
	if err := c.send(request); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	var result error
	for {
		b, err := c.read()
		if err != nil {
			return fmt.Errorf("read netlink reply: %w", err)
		}
		for m := range messages(b) {
			if m.Seq != c.seq {
				continue
			}
			if m.Flags&unix.NLM_F_DUMP_INTR != 0 {
				result = ErrInterrupted
			}
			if m.Type != unix.NLMSG_ERROR && m.Type != unix.NLMSG_DONE {
				each(m.Data)
				continue
			}
			if errno := errnoOf(m.Data); errno != 0 {
				result = errno
			}
			return result
		}
	}
}

// receive reads one datagram. The data of its messages is their own.
func receive(read func() ([]byte, error)) ([]syscall.NetlinkMessage, error) {
	b, err := read()
	if err != nil {
		return nil, err
	}
	return syscall.ParseNetlinkMessage(append([]byte(nil), b...))
}

// read reads one datagram, which is valid until the next.
func (c *Conn) read() ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("no answer from the kernel within %d s", replyTimeout)
		case err != nil:
			return nil, err
		}
		return c.buf[:n], nil
	}
}

// readPromptly is read for what is there when the request has been sent, as the answer to a transaction is.
func (c *Conn) readPromptly() ([]byte, error) {
	switch n, err := prompt.Receive(uintptr(c.fd), c.buf); {
	case err == nil:
		return c.buf[:n], nil
	case !errors.Is(err, unix.EAGAIN):
		return nil, err // the kernel tells an error once
	}
	return c.read()
}

// Errno is the error in an NLMSG_ERROR or NLMSG_DONE; 0 means none.
func Errno(m syscall.NetlinkMessage) unix.Errno { return errnoOf(m.Data) }

func errnoOf(data []byte) unix.Errno { return unix.Errno(-int32(HostUint32(data))) }
