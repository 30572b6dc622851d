//go:build linux

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/cni/wire"
)

// serve answers one call. What is not a call of the plugin gets a reason, and has no effect.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	r, err := receive(conn)
	if r.netns >= 0 {
		defer func() { _ = unix.Close(r.netns) }()
	}
	if s.cfg.Working != nil && (r.Command == "ADD" || r.Command == "DEL") {
		defer s.cfg.Working()() // runtimes ask for STATUS all the time
	}
	var out []byte
	if err == nil {
		out, err = s.handle(ctx, r)
	}
	s.metrics.observe(r.Command, err, time.Since(begin))
	s.answer(conn, r, out, err)
}

func (s *Server) answer(conn *net.UnixConn, r request, out []byte, fail *types.Error) {
	log := s.cfg.Logger.With("command", r.Command, "container", r.ContainerID, "interface", r.IfName, "pod", r.attachment.Pod.String())
	var frame []byte
	if fail == nil {
		log.Debug("CNI request")
		frame = wire.AppendReply(nil, 0, out)
	} else {
		log.Warn("CNI request failed", "code", fail.Code, "message", fail.Msg, "details", fail.Details)
		version := r.conf.CNIVersion
		if version == "" {
			version = "1.1.0"
		}
		frame = wire.AppendReply(nil, 1, wire.AppendError(nil, version, int(fail.Code), fail.Msg, fail.Details))
	}
	_ = conn.SetWriteDeadline(time.Now().Add(transferLimit))
	if _, err := conn.Write(frame); err != nil {
		log.Warn("the CNI plugin did not wait for its answer", "error", err)
	}
}

// receive reads a call and judges it. The descriptor in it is the caller's to close, even on error.
func receive(conn *net.UnixConn) (request, *types.Error) {
	if err := onlyRoot(conn); err != nil {
		return request{netns: -1}, types.NewError(types.ErrInternal, "the CNI socket is for root", err.Error())
	}
	_ = conn.SetReadDeadline(time.Now().Add(transferLimit))
	header, config, netns, err := readFrame(conn)
	if err != nil {
		return request{netns: netns}, types.NewError(types.ErrDecodingFailure, "read the request", err.Error())
	}
	r, fail := parseRequest(header, config)
	r.netns = netns
	if fail == nil && r.attachment.HostLink != "" && r.Command != "DEL" && !pod.IsNetworkNamespace(netns) {
		fail = types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %s is not a network namespace", r.Netns), "")
	}
	return r, fail
}

// onlyRoot asks the kernel who is at the other end.
func onlyRoot(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != 0 {
		return fmt.Errorf("the caller (pid %d) has user ID %d", cred.Pid, cred.Uid)
	}
	return nil
}

// readFrame reads a request and the one descriptor that may come with its first byte.
func readFrame(conn *net.UnixConn) (header, config []byte, netns int, err error) {
	first := make([]byte, 8<<10)
	oob := make([]byte, unix.CmsgSpace(16*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(first, oob)
	netns, ferr := oneDescriptor(oob[:oobn])
	if err := errors.Join(err, ferr); err != nil {
		return nil, nil, netns, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return nil, nil, netns, errors.New("more descriptors than one")
	}
	if n < wire.HeadSize {
		more, err := io.ReadAtLeast(conn, first[n:], wire.HeadSize-n)
		if n += more; err != nil {
			return nil, nil, netns, fmt.Errorf("%d bytes are no request: %w", n, wire.ErrMagic)
		}
	}
	h, c, err := wire.ParseRequestHead(first[:n])
	if err != nil {
		return nil, nil, netns, err
	}
	body := make([]byte, h+c)
	have := copy(body, first[wire.HeadSize:n])
	if n-wire.HeadSize > have {
		return nil, nil, netns, errors.New("bytes behind the end of the request")
	}
	if _, err := io.ReadFull(conn, body[have:]); err != nil {
		return nil, nil, netns, fmt.Errorf("the request is cut short: %w", err)
	}
	return body[:h], body[h:], netns, nil
}

// oneDescriptor takes the descriptor out of the control messages, -1 if there is none. If there are
// more, it closes all but the first, and says so.
func oneDescriptor(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, fmt.Errorf("read the control messages: %w", err)
	}
	var fds []int
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) == 0 {
		return -1, nil
	}
	for _, fd := range fds[1:] {
		_ = unix.Close(fd)
	}
	if len(fds) > 1 {
		return fds[0], errors.New("more descriptors than one")
	}
	return fds[0], nil
}
