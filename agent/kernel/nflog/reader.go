//go:build linux

package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// Messages and attributes of linux/netfilter/nfnetlink_log.h, which x/sys/unix lacks.
const (
	subsystem = 4 << 8 // NFNL_SUBSYS_ULOG
	msgPacket = 0
	msgConfig = 1

	cfgCmd     = 1
	cfgMode    = 2
	cfgTimeout = 4
	cfgQThresh = 5

	cmdBind    = 1
	copyPacket = 2

	attrHeader  = 1
	attrInDev   = 4
	attrOutDev  = 5
	attrPayload = 9
	attrPrefix  = 10

	netfilterHeader = 4
)

const (
	// copyBytes holds an IPv6 header, some extension headers and the ports.
	copyBytes = 128
	// gather is how long the kernel may hold packets back to send several at once, in 1/100 s.
	gather = 10
	// gatherMost is how many.
	gatherMost = 16

	bufferSize    = 64 << 10
	receiveBuffer = 1 << 20
	replyTimeout  = 5 * time.Second
)

// ErrTaken says that another program already reads the group. The kernel says no more than that it is
// not permitted, as it does without CAP_NET_ADMIN.
var ErrTaken = errors.New("another program reads this log group, or CAP_NET_ADMIN is missing")

// Reader reads one group.
type Reader struct {
	file  *os.File
	group uint16
	lost  atomic.Uint64
}

// New takes the group in the network namespace of the calling thread.
func New(group uint16) (*Reader, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink log socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind netlink log socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	r := &Reader{file: os.NewFile(uintptr(fd), "netlink log"), group: group}
	if err := r.configure(); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

// Close gives the group back, and ends Run.
func (r *Reader) Close() error { return r.file.Close() }

// Lost counts the times that packets came faster than they were read.
func (r *Reader) Lost() uint64 { return r.lost.Load() }

func (r *Reader) configure() error {
	steps := [][]wire.Attr{
		{wire.Bytes(cfgCmd, []byte{cmdBind})},
		{
			wire.Bytes(cfgMode, append(binary.BigEndian.AppendUint32(nil, copyBytes), copyPacket, 0)),
			wire.Big32(cfgTimeout, gather), wire.Big32(cfgQThresh, gatherMost),
		},
	}
	for i, attrs := range steps {
		err := r.ask(uint32(i+1), attrs)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM) {
			return fmt.Errorf("take log group %d: %w", r.group, ErrTaken)
		}
		if err != nil {
			return fmt.Errorf("take log group %d: %w", r.group, err)
		}
	}
	return r.file.SetReadDeadline(time.Time{})
}

// ask sends one request and waits for its answer; packets that come before it are thrown away.
func (r *Reader) ask(seq uint32, attrs []wire.Attr) error {
	head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, r.group)
	if _, err := r.file.Write(wire.Frame(nil, subsystem|msgConfig, unix.NLM_F_ACK, seq, wire.Put(head, attrs...))); err != nil {
		return err
	}
	if err := r.file.SetReadDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	buf := make([]byte, bufferSize)
	for {
		n, err := r.file.Read(buf)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Type == unix.NLMSG_ERROR && m.Header.Seq == seq {
				if errno := wire.Errno(m); errno != 0 {
					return errno
				}
				return nil
			}
		}
	}
}

// Run calls each with every packet until the context ends or the reader is closed.
func (r *Reader) Run(ctx context.Context, each func(Packet)) error {
	stop := context.AfterFunc(ctx, func() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, bufferSize)
	for {
		n, err := r.file.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			r.lost.Add(1)
			continue
		case err != nil:
			return fmt.Errorf("read log group %d: %w", r.group, err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			r.lost.Add(1)
			continue
		}
		for _, m := range messages {
			if m.Header.Type == subsystem|msgPacket && len(m.Data) > netfilterHeader {
				each(decode(wire.Parse(m.Data[netfilterHeader:])))
			}
		}
	}
}
