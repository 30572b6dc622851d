//go:build linux

package pod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// answerLimit bounds how long the kernel may take over one message.
const answerLimit = 20 * time.Second

// socket is a routing netlink socket; it belongs to the namespace of the thread that opened it.
type socket struct {
	fd  int
	seq uint32
	buf [16 << 10]byte
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set up a netlink socket: %w", err)
	}
	return &socket{fd: fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// ifreqIndex is struct ifreq with its union read as an interface index.
type ifreqIndex struct {
	name  [unix.IFNAMSIZ]byte
	index int32
	_     [20]byte
}

// index finds a link by name. It costs one system call and no lock.
func (s *socket) index(name string) (int, error) {
	var req ifreqIndex
	if len(name) >= len(req.name) {
		return 0, fmt.Errorf("find link %q: %w", name, unix.EINVAL)
	}
	copy(req.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCGIFINDEX, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return 0, fmt.Errorf("find link %s: %w", name, errno)
	}
	return int(req.index), nil
}

// message is one netlink request and what it is for.
type message struct {
	doing string
	req   *nl.NetlinkRequest
}

func newMessage(doing string, kind uint16, flags int, parts ...nl.NetlinkRequestData) message {
	req := nl.NewNetlinkRequest(int(kind), unix.NLM_F_ACK|flags)
	for _, p := range parts {
		req.AddData(p)
	}
	return message{doing: doing, req: req}
}

// do sends all messages at once and waits for every answer. The kernel goes on behind a failed
// message; the first failure is returned.
func (s *socket) do(messages []message) error {
	first := s.seq + 1
	var out []byte
	for _, m := range messages {
		s.seq++
		m.req.Seq = s.seq
		b := m.req.Serialize()
		out = append(out, b...)
		out = append(out, make([]byte, -len(b)&(unix.NLMSG_ALIGNTO-1))...)
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d netlink messages: %w", len(messages), err)
	}
	errs := make([]error, len(messages))
	for waiting := len(messages); waiting > 0; {
		n, err := s.receive()
		if err != nil {
			return err
		}
		for b := s.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errors.New("receive from netlink: bad message length")
			}
			if i := binary.NativeEndian.Uint32(b[8:]) - first; binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR && int(i) < len(errs) {
				errs[i] = ackError(b[:size])
				waiting--
			}
			b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
		}
	}
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("%s: %w", messages[i].doing, err)
		}
	}
	return nil
}

// routeType asks where the kernel would send a packet for the address. It takes no lock.
func (s *socket) routeType(dst netip.Addr) (uint8, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(dst)), Dst_len: uint8(dst.BitLen())}}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, dst.AsSlice()))
	s.seq++
	req.Seq = s.seq
	if err := unix.Sendto(s.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("look up the route to %s: %w", dst, err)
	}
	n, err := s.receive()
	if err != nil {
		return 0, err
	}
	if n < unix.NLMSG_HDRLEN+unix.SizeofRtMsg {
		return 0, errors.New("truncated netlink route")
	}
	if kind := binary.NativeEndian.Uint16(s.buf[4:]); kind != unix.RTM_NEWROUTE {
		return 0, nil // no route at all: an error instead of one
	}
	return s.buf[unix.NLMSG_HDRLEN+7], nil // rtm_type
}

func (s *socket) receive() (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf[:], 0)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, fmt.Errorf("wait for the kernel's answer for %s: %w", answerLimit, err)
		default:
			return 0, fmt.Errorf("receive from netlink: %w", err)
		}
	}
}

// ackError reads an acknowledgement: nil, or the error with the kernel's own words where it gives
// some (extended acknowledgement, Linux 4.12).
func ackError(b []byte) error {
	if len(b) < unix.NLMSG_HDRLEN+4 {
		return errors.New("truncated netlink acknowledgement")
	}
	errno := -int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:]))
	if errno == 0 {
		return nil
	}
	err := error(unix.Errno(errno))
	// The error number, the header of the refused message (CAP_ACK leaves its body out), attributes.
	const attrs = unix.NLMSG_HDRLEN + 4 + unix.NLMSG_HDRLEN
	if binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_ACK_TLVS == 0 || len(b) <= attrs {
		return err
	}
	parsed, perr := nl.ParseRouteAttr(b[attrs:])
	if perr != nil {
		return err
	}
	for _, a := range parsed {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", err, nl.BytesToString(a.Value))
		}
	}
	return err
}
