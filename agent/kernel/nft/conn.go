//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// message is one request to nf_tables.
type message struct {
	typ    uint16 // NFT_MSG_*
	flags  uint16 // beyond NLM_F_REQUEST
	family byte
	data   []byte
	// what tells a person which step this is, should the kernel refuse it.
	what string
}

// conn is a netlink socket to nf_tables. It belongs to the network namespace of the thread that
// opened it. Replies are told apart by sequence number, so that an abandoned request cannot
// disturb the next one.
type conn struct {
	mu   sync.Mutex
	fd   int
	port uint32
	seq  uint32
	buf  []byte
}

const (
	sendBuffer    = 32 << 20 // one transaction of some 100,000 elements
	receiveBuffer = 8 << 20
	replySize     = 256 << 10
	replyTimeout  = 30 // seconds; a transaction of 100,000 elements takes a few
)

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, replySize)}
	if err := c.setUp(); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *conn) setUp() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netfilter socket: %w", err)
	}
	name, err := unix.Getsockname(c.fd)
	if err != nil {
		return fmt.Errorf("read netfilter socket's port: %w", err)
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		c.port = nl.Pid
	}
	setBuffer(c.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer)
	setBuffer(c.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	// Old kernels lack these two; they only make errors shorter and clearer.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: replyTimeout}); err != nil {
		return fmt.Errorf("set netfilter socket's timeout: %w", err)
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

func (c *conn) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return unix.Close(c.fd)
}

// frame appends one netlink message.
func frame(b []byte, typ, flags uint16, seq uint32, family byte, resID uint16, data []byte) []byte {
	n := unix.SizeofNlMsghdr + 4 + len(data)
	b = binary.NativeEndian.AppendUint32(b, uint32(n))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resID)
	b = append(b, data...)
	return append(b, make([]byte, align(n)-n)...)
}

func nftType(msg uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | msg }

// batch sends the messages as one transaction and waits for its outcome. The kernel reports every
// message that it refuses, and answers the last one in any case.
func (c *conn) batch(msgs []message) error {
	if len(msgs) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := c.seq + 1
	last := begin + uint32(len(msgs))
	c.seq = last + 1
	b := frame(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, begin, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	for i, m := range msgs {
		seq, flags := begin+1+uint32(i), m.flags
		if seq == last {
			flags |= unix.NLM_F_ACK
		}
		b = frame(b, nftType(m.typ), flags, seq, m.family, 0, m.data)
	}
	b = frame(b, unix.NFNL_MSG_BATCH_END, 0, c.seq, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send transaction of %d steps, %d bytes: %w", len(msgs), len(b), err)
	}
	return c.outcome(msgs, begin, last)
}

func (c *conn) outcome(msgs []message, begin, last uint32) error {
	var errs []error
	for {
		replies, err := c.receive()
		if err != nil {
			return fmt.Errorf("read outcome of transaction: %w", errors.Join(append(errs, err)...))
		}
		for _, r := range replies {
			if r.Header.Type != unix.NLMSG_ERROR || r.Header.Seq < begin || r.Header.Seq > last {
				continue
			}
			if errno := replyErrno(r); errno != 0 {
				what := "commit transaction"
				if r.Header.Seq > begin {
					what = msgs[r.Header.Seq-begin-1].what
				}
				errs = append(errs, fmt.Errorf("%s: %w", what, errno))
			}
			if r.Header.Seq == begin || r.Header.Seq == last {
				return errors.Join(errs...)
			}
		}
	}
}

// errInterrupted says that the tables changed while they were listed.
var errInterrupted = errors.New("listing was interrupted by a change")

// query sends a request and returns the payloads of its replies. With dump it lists.
func (c *conn) query(typ uint16, family byte, dump bool, attrs ...attr) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	flags := uint16(unix.NLM_F_ACK)
	if dump {
		flags = unix.NLM_F_DUMP
	}
	b := frame(nil, nftType(typ), flags, c.seq, family, 0, put(nil, attrs...))
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out [][]byte
	interrupted := false
	for {
		replies, err := c.receive()
		if err != nil {
			return nil, err
		}
		for _, r := range replies {
			if r.Header.Seq != c.seq {
				continue
			}
			interrupted = interrupted || r.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch r.Header.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if errno := replyErrno(r); errno != 0 {
					return nil, errno
				}
				if interrupted {
					return nil, errInterrupted
				}
				return out, nil
			default:
				if len(r.Data) >= 4 {
					out = append(out, r.Data)
				}
			}
		}
	}
}

// receive reads one datagram. The data of its messages is their own.
func (c *conn) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("no answer from the kernel within %d s", replyTimeout)
		}
		if err != nil {
			return nil, err
		}
		return syscall.ParseNetlinkMessage(append([]byte(nil), c.buf[:n]...))
	}
}

func replyErrno(m syscall.NetlinkMessage) unix.Errno {
	if len(m.Data) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
}
