//go:build linux

// Command weftnet is the CNI plugin: it hands each call of the container runtime to the agent over
// a unix socket and prints the answer. It decides nothing but what to say when the agent does not
// answer: try again later (ADD), not available (STATUS), or a note on disk that the agent works off
// when it is back (DEL).
//
// It is started for every Pod, so it uses system calls and little else: what the runtime waits for
// is mostly the start of the process.
package main

import (
	"syscall"

	"github.com/weftnet/weftnet/cni/wire"
	"github.com/weftnet/weftnet/version"
)

// The error codes of the CNI specification that the plugin itself gives.
const (
	codeBadEnvironment = 4
	codeIO             = 5
	codeBadConfig      = 7
	codeBadNetns       = 8
	codeTryAgain       = 11
	codeNotAvailable   = 50
)

const about = "Weftnet CNI plugin: asks the Weftnet agent of this node over a unix socket.\n" +
	"CNI versions: 0.3.1, 0.4.0, 1.0.0, 1.1.0. It is run by a container runtime, not by hand.\n"

// failure is an error in the words of CNI.
type failure struct {
	code         int
	msg, details string
}

func main() {
	command := env("CNI_COMMAND")
	if command == "" {
		writeAll(2, []byte("weftnet "+version.Version+"\n"+about))
		return
	}
	config, err := readAll(0, wire.MaxConfig)
	if err != nil {
		exit(nil, &failure{codeIO, "read the network configuration from standard input", err.Error()})
	}
	if wire.Peek(config, "type")["type"] == loopbackType {
		out, fail := loopback(command, config)
		if fail != nil {
			exit(config, fail)
		}
		writeAll(1, out)
		return
	}
	out, status, fail := run(command, config)
	if fail != nil {
		exit(config, fail)
	}
	writeAll(1, out)
	syscall.Exit(status)
}

func run(command string, config []byte) (out []byte, status int, fail *failure) {
	switch command {
	case "VERSION":
		return versions(config), 0, nil
	case "ADD", "DEL", "CHECK", "GC", "STATUS":
	default:
		return nil, 0, &failure{codeBadEnvironment, "unknown CNI_COMMAND: " + command, ""}
	}
	header := wire.Header{
		Command:       command,
		ContainerID:   env("CNI_CONTAINERID"),
		Netns:         env("CNI_NETNS"),
		IfName:        env("CNI_IFNAME"),
		Args:          env("CNI_ARGS"),
		Path:          env("CNI_PATH"),
		NetnsOverride: env("CNI_NETNS_OVERRIDE"),
	}
	netns := -1
	if needsNetns := command == "ADD" || command == "CHECK"; needsNetns && header.Netns != "" {
		var err error
		if netns, err = openRetry(header.Netns); err != nil {
			return nil, 0, &failure{codeBadNetns, "open the network namespace " + header.Netns, err.Error()}
		}
	}
	socket := wire.Peek(config, "socket")["socket"]
	if socket == "" {
		socket = wire.DefaultSocket
	}
	if len(socket) > 107 || socket[0] != '/' {
		return nil, 0, &failure{codeBadConfig, "\"socket\" must be an absolute path of at most 107 bytes", socket}
	}
	frame := wire.AppendRequest(nil, header, config)
	out, status, err := call(socket, frame, netns)
	if err != nil {
		return nil, 0, unanswered(command, socket, frame, header, err)
	}
	return out, status, nil
}

// unanswered decides what a call means to the runtime when the agent did not answer it.
func unanswered(command, socket string, frame []byte, header wire.Header, err error) *failure {
	msg := "the Weftnet agent does not answer on " + socket + ": " + err.Error()
	const why = "the weftnet-agent Pod of this node is starting, being upgraded, or failing; see its log"
	switch command {
	case "DEL":
		if header.ContainerID == "" || header.IfName == "" {
			return &failure{codeBadEnvironment, "CNI_CONTAINERID and CNI_IFNAME are needed", ""}
		}
		if qerr := enqueue(socket, frame, header); qerr != nil {
			return &failure{codeTryAgain, msg, "queue the DEL on disk: " + qerr.Error()}
		}
		return nil
	case "STATUS":
		return &failure{codeNotAvailable, msg, why}
	default:
		return &failure{codeTryAgain, msg, why}
	}
}

func versions(config []byte) []byte {
	asked := wire.Peek(config, "cniVersion")["cniVersion"]
	if asked == "" {
		asked = "1.1.0"
	}
	b := wire.AppendString([]byte(`{"cniVersion":`), asked)
	return append(b, ",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"...)
}

// exit prints the failure as CNI wants it, on standard output, and ends the process.
func exit(config []byte, f *failure) {
	v := wire.Peek(config, "cniVersion")["cniVersion"]
	if v == "" {
		v = "1.1.0"
	}
	writeAll(1, wire.AppendError(nil, v, f.code, f.msg, f.details))
	syscall.Exit(1)
}
