// Package wire is what the CNI plugin and the agent say to each other over the unix socket. The
// plugin is started for every Pod, so the package imports next to nothing: no encoding/json (its
// start alone costs 0.3 ms), no net.
//
// A request is one frame, its file descriptor (the Pod's network namespace) attached to the first
// byte:
//
//	"WFT1" | uint32 length of the header | uint32 length of the config | header (JSON) | config
//
// The config is the network configuration as the runtime gave it on standard input, whatever it is:
// the agent judges it. A reply is one frame:
//
//	"WFT1" | uint32 exit status | uint32 length of the output | output
//
// The output is what the plugin has to print: a CNI result, or a CNI error when the status is not
// 0. Numbers are big-endian.
package wire

import (
	"errors"
	"strconv"
)

// The limits that both sides hold each other to, in bytes.
const (
	MaxHeader = 64 << 10
	// MaxConfig leaves room for GC, which lists every valid attachment of the node (some 100 bytes
	// each).
	MaxConfig = 1 << 20
	MaxOutput = 1 << 20
	// HeadSize is the size of the fixed part of a frame.
	HeadSize = 12
)

// DefaultSocket is where the agent listens unless the configuration says otherwise.
const DefaultSocket = "/run/weftnet/cni.sock"

// QueueDir is the folder, beside the socket, in which the plugin leaves its DELs while the agent is
// down. Each file is a request frame.
const QueueDir = "cni-queue"

const magic = "WFT1"

// The errors of a frame that is not one.
var (
	ErrMagic    = errors.New("not a Weftnet CNI frame")
	ErrTooLarge = errors.New("CNI frame exceeds its size limit")
)

// Header is the environment of one call of the plugin.
type Header struct {
	Command     string `json:"command"`
	ContainerID string `json:"containerID,omitempty"`
	Netns       string `json:"netns,omitempty"`
	IfName      string `json:"ifName,omitempty"`
	Args        string `json:"args,omitempty"`
	Path        string `json:"path,omitempty"`
	// NetnsOverride is CNI_NETNS_OVERRIDE: the runtime insists on a namespace that is the host's.
	NetnsOverride string `json:"netnsOverride,omitempty"`
}

// AppendRequest appends the frame of a request to b.
func AppendRequest(b []byte, h Header, config []byte) []byte {
	head := len(b)
	b = append(b, make([]byte, HeadSize)...)
	b = h.appendJSON(b)
	copy(b[head:], magic)
	put32(b[head+4:], uint32(len(b)-head-HeadSize))
	put32(b[head+8:], uint32(len(config)))
	return append(b, config...)
}

// ParseRequestHead reads the sizes from the fixed part of a request, and refuses what is too large.
func ParseRequestHead(b []byte) (header, config int, err error) {
	return parseHead(b, MaxHeader, MaxConfig)
}

// AppendReply appends the frame of a reply to b.
func AppendReply(b []byte, status uint32, output []byte) []byte {
	head := len(b)
	b = append(b, make([]byte, HeadSize)...)
	copy(b[head:], magic)
	put32(b[head+4:], status)
	put32(b[head+8:], uint32(len(output)))
	return append(b, output...)
}

// ParseReplyHead reads exit status and output length from the fixed part of a reply.
func ParseReplyHead(b []byte) (status, output int, err error) {
	return parseHead(b, 255, MaxOutput)
}

func parseHead(b []byte, maxFirst, maxSecond uint32) (first, second int, err error) {
	if len(b) < HeadSize || string(b[:4]) != magic {
		return 0, 0, ErrMagic
	}
	x, y := get32(b[4:]), get32(b[8:])
	if x > maxFirst || y > maxSecond {
		return 0, 0, ErrTooLarge
	}
	return int(x), int(y), nil
}

func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

func get32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func (h Header) appendJSON(b []byte) []byte {
	b = append(b, '{')
	first := true
	for _, f := range [...]struct{ name, value string }{
		{"command", h.Command}, {"containerID", h.ContainerID}, {"netns", h.Netns}, {"ifName", h.IfName},
		{"args", h.Args}, {"path", h.Path}, {"netnsOverride", h.NetnsOverride},
	} {
		if f.value == "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = AppendString(b, f.name)
		b = append(b, ':')
		b = AppendString(b, f.value)
	}
	return append(b, '}')
}

// AppendError appends a CNI error object, as a plugin prints it, to b.
func AppendError(b []byte, cniVersion string, code int, msg, details string) []byte {
	b = append(b, "{\n    \"cniVersion\": "...)
	b = AppendString(b, cniVersion)
	b = append(b, ",\n    \"code\": "...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, ",\n    \"msg\": "...)
	b = AppendString(b, msg)
	if details != "" {
		b = append(b, ",\n    \"details\": "...)
		b = AppendString(b, details)
	}
	return append(b, "\n}\n"...)
}

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// QueueName is the name of the file that holds the DEL of an attachment. It keeps what CNI allows in
// a container ID and in the name of an interface, but for the slash and a leading dot.
func QueueName(containerID, ifName string) string {
	return fileName(containerID) + "@" + fileName(ifName)
}

func fileName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == '/' || c == 0 || i == 0 && c == '.' {
			b[i] = '_'
		}
	}
	return string(b[:min(len(b), 100)])
}
