//go:build linux

package lab

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// Handshakes of the node's peers, by key, as the wireguard process tells them (the cross-platform
// interface of WireGuard, to the nanosecond). A peer without one has the zero time.
func (n *Node) Handshakes() (map[state.PublicKey]time.Time, error) {
	c, err := net.Dial("unix", filepath.Join(n.Run, "wireguard/weft0.sock"))
	if err != nil {
		return nil, fmt.Errorf("ask the wireguard process: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "get=1\n\n"); err != nil {
		return nil, fmt.Errorf("ask the wireguard process: %w", err)
	}
	out := map[state.PublicKey]time.Time{}
	var key state.PublicKey
	var seconds int64
	lines := bufio.NewScanner(c)
	for lines.Scan() && lines.Text() != "" {
		name, value, _ := strings.Cut(lines.Text(), "=")
		var err error
		switch name {
		case "public_key":
			_, err = hex.Decode(key[:], []byte(value))
		case "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			var nanoseconds int64
			nanoseconds, err = strconv.ParseInt(value, 10, 64)
			out[key] = time.Time{}
			if seconds != 0 {
				out[key] = time.Unix(seconds, nanoseconds)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read %q of the wireguard process: %w", lines.Text(), err)
		}
	}
	return out, lines.Err()
}
