package userspace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
)

// maxRequest bounds what one UAPI request may hold: some ten thousand peers.
const maxRequest = 16 << 20

// listenUAPI opens the socket that wgctrl connects to, which replaces one that a killed process has
// left behind. The process runs with a umask that leaves it to root alone.
func listenUAPI(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the UAPI socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("open UAPI socket %s: another process serves it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open UAPI socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open UAPI socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect UAPI socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// serve speaks WireGuard's configuration protocol (https://www.wireguard.com/xplatform/). It is
// done here rather than by wireguard-go's IpcHandle so that every change is saved before it is
// answered: what the agent knows to be applied survives a crash.
func (t *tunnel) serve() {
	for {
		c, err := t.uapi.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer func() { _ = c.Close() }()
			t.converse(bufio.NewReader(c), c)
		}()
	}
}

func (t *tunnel) converse(in *bufio.Reader, out io.Writer) {
	for {
		operation, err := in.ReadString('\n')
		if err != nil {
			return
		}
		lines, err := readRequest(in)
		var answer string
		switch {
		case err != nil:
		case operation == "get=1\n":
			answer, err = t.device.IpcGet()
		case operation == "set=1\n":
			err = t.set(lines)
		default:
			return
		}
		if _, err := fmt.Fprintf(out, "%serrno=%d\n\n", answer, errno(err)); err != nil {
			return
		}
	}
}

// readRequest reads up to the empty line. It refuses what is not key=value by itself: wireguard-go
// would quote the line in its log, and it might be half of a key.
func readRequest(in *bufio.Reader) (string, error) {
	var lines strings.Builder
	var fault error
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\n" {
			return lines.String(), fault
		}
		if !strings.Contains(line, "=") || lines.Len()+len(line) > maxRequest {
			fault = syscall.EPROTO
			continue
		}
		lines.WriteString(line)
	}
}

func errno(err error) int64 {
	var status *device.IPCError
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.ErrorCode()
	case errors.As(err, &number):
		return -int64(number)
	}
	return ipc.IpcErrorUnknown
}
