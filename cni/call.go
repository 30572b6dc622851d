//go:build linux

package main

import (
	"errors"
	"strconv"
	"syscall"

	"github.com/weftnet/weftnet/cni/wire"
)

// answerSeconds is how long the plugin waits for the agent; longer than the agent gives itself for
// any request, so that it is the agent that says what took so long.
const answerSeconds = 60

// call sends the frame with the namespace's descriptor (if any) and reads the reply.
func call(socket string, frame []byte, netns int) (out []byte, status int, err error) {
	fd, err := dial(socket)
	if err != nil {
		return nil, 0, err
	}
	defer syscall.Close(fd)
	if err := send(fd, frame, netns); err != nil {
		return nil, 0, wrap("send the request: ", err)
	}
	head := make([]byte, wire.HeadSize)
	if err := readFull(fd, head); err != nil {
		return nil, 0, wrap("read the reply: ", err)
	}
	status, n, err := wire.ParseReplyHead(head)
	if err != nil {
		return nil, 0, err
	}
	out = make([]byte, n)
	if err := readFull(fd, out); err != nil {
		return nil, 0, wrap("read the reply: ", err)
	}
	return out, status, nil
}

func dial(socket string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, wrap("make a socket: ", err)
	}
	limit := syscall.Timeval{Sec: answerSeconds}
	for _, option := range [...]int{syscall.SO_SNDTIMEO, syscall.SO_RCVTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit); err != nil {
			syscall.Close(fd)
			return -1, wrap("set the time limit: ", err)
		}
	}
	for {
		err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
		if err == nil || err == syscall.EISCONN {
			return fd, nil
		}
		if err != syscall.EINTR {
			syscall.Close(fd)
			return -1, wrap("connect: ", err)
		}
	}
}

// send writes the frame; the descriptor travels with its first byte.
func send(fd int, frame []byte, netns int) error {
	var rights []byte
	if netns >= 0 {
		rights = syscall.UnixRights(netns)
	}
	for len(frame) > 0 {
		n, err := syscall.SendmsgN(fd, frame, rights, nil, syscall.MSG_NOSIGNAL)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		frame, rights = frame[n:], nil
	}
	return nil
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Read(fd, b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return errors.New("no answer in " + strconv.Itoa(answerSeconds) + " s")
		case err != nil:
			return err
		case n == 0:
			return errors.New("the agent closed the connection")
		default:
			b = b[n:]
		}
	}
	return nil
}

// readAll reads to the end, at most limit bytes.
func readAll(fd, limit int) ([]byte, error) {
	b := make([]byte, 0, 8<<10)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := syscall.Read(fd, b[len(b):cap(b)])
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) > limit {
			return nil, errors.New("more than " + strconv.Itoa(limit) + " bytes")
		}
	}
}

// writeAll writes as much as can be written: there is nobody to tell of a failure.
func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err != nil && err != syscall.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}

func openRetry(path string) (int, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}

func env(name string) string {
	v, _ := syscall.Getenv(name)
	return v
}

// wrap adds what was being done, as fmt.Errorf would; fmt is not imported.
func wrap(doing string, err error) error { return errors.New(doing + err.Error()) }
